"""Archives: places of a vault that are no machine of the lab, buckets of object stores above all."""
