//! Two machines, one scenario: what differed and why that is allowed.
