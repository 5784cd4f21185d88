"""Frozen text and video encoders behind one small protocol."""

from tmor_fast.teachers.descriptors import ClassicalVideoTeacher, DescriptorSettings, video_descriptor
from tmor_fast.teachers.embed import embed_store
from tmor_fast.teachers.factory import get_teacher
from tmor_fast.teachers.huggingface import HuggingFaceTeacher
from tmor_fast.teachers.minilm import minilm
from tmor_fast.teachers.motion_video import RenderSettings, render_clip, render_clips
from tmor_fast.teachers.precomputed import PrecomputedTeacher
from tmor_fast.teachers.protocol import Teacher, TeacherUnavailableError

__all__ = [
    "ClassicalVideoTeacher",
    "DescriptorSettings",
    "HuggingFaceTeacher",
    "PrecomputedTeacher",
    "RenderSettings",
    "Teacher",
    "TeacherUnavailableError",
    "embed_store",
    "get_teacher",
    "minilm",
    "render_clip",
    "render_clips",
    "video_descriptor",
]
