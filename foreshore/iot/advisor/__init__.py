"""A local Device Advisor: test cases that watch and disturb one device, after AWS IoT Core Device Advisor."""
