"""What dokocos measures about itself, each figure beside the ceiling of the machine it ran on."""
