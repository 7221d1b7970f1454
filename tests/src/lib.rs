//! The kit of the black-box tests.
pub mod fuzz;
