"""The kind `filesystem`: a folder, walked and watched."""
