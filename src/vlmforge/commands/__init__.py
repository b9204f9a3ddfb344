"""One file a verb; the only place that joins the packages."""
