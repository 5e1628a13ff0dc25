"""Foreshore: an edge and IoT serverless runtime kit for AWS, whose same files run on a laptop and on AWS."""

__version__ = "0.1.0"
