"""Constants and ARN handling that greengrasssdk 1.x expects of its runtime."""
