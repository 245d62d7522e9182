"""What a network does on a split: accuracy by class, confusions, calibration, the worst images."""
