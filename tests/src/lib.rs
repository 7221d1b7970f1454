//! The kit of the black-box tests.
