# The entry for tiny3d.py in _SPECS of video_module/models/registry.py.
# ruff: noqa: F821
ModelSpec(
    name="tiny3d",
    clip=ClipConfig(num_frames=8, frame_stride=4, resize=72, crop=64),
    builder="video_module.models.tiny3d:tiny3d",
    head="head",
    features="trunk",
)
