"""Every source that hfds reads: one file each."""

from builders.dalle3 import Dalle3
from builders.diffusiondb import DiffusionDB
from builders.gustavosta import Gustavosta
from builders.laion import Laion
from builders.openprompts import OpenPrompts
from builders.prompt_lists import PromptLists
from builders.sd2_renders import SD2Renders
from hfds.builder import Builder

BUILDERS: tuple[type[Builder], ...] = (Dalle3, DiffusionDB, Gustavosta, Laion, OpenPrompts, PromptLists, SD2Renders)
