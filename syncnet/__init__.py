"""The expert: is this mouth saying this sound?"""
