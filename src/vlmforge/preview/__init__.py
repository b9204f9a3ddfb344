"""What a step trains on, for people: `reading` fills a `view`; `terminal` and `page` write it."""
