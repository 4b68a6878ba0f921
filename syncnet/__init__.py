"""Sync expert (SyncNet): measures how well lip motion matches the audio."""
