"""What topics and webhooks share: messages as events, and documents that are what events say."""
