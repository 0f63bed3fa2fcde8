"""Methods that learn from rewards on the policy's own samples."""
