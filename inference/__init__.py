"""Lip-syncs a video or photo to speech."""
