"""What an attempt leaves written: metrics, the console, throughput, profiles, attempts."""
