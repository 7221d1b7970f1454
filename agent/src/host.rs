//! What the kernel says of the host that the agent runs on. Owns reading it; must not own what follows from it for a
//! target.

pub mod mountinfo;
