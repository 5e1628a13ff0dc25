"""The calls that greengrasssdk makes to reach the rest of a core."""
