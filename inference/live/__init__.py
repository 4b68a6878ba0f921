"""Live lip-sync: speech goes in as it is spoken, frames come out at the pace of a clock."""
