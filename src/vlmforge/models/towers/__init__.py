"""Vision towers of stitched models, by the `model_type` of their config. Their classes are in the `_model` files."""

from collections.abc import Mapping

from vlmforge.models.towers.clip import CLIP
from vlmforge.models.towers.internvit import INTERNVIT
from vlmforge.models.towers.radio import RADIO
from vlmforge.models.towers.siglip import SIGLIP
from vlmforge.models.towers.tower import Tower

TOWERS: Mapping[str, Tower] = {tower.model_type: tower for tower in (CLIP, SIGLIP, INTERNVIT, RADIO)}
