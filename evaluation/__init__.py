"""Evaluation: sync, mouth motion, image quality and robustness of lip-sync systems, measured on their videos."""
