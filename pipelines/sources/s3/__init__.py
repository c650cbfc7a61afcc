"""The kind `s3`: a bucket, listed, and followed by its notifications."""
