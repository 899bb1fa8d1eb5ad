"""What the paper measures: neighbours, linear classifiers, rankings, regions, labels carried on."""
