//! Every bound has its name here. What is the same in every installation is a constant; what an operator may set comes
//! from the configuration, with the default named here.

/// Levels of a topic name or filter. More are refused: 0x90 Topic Name invalid, 0x8F Topic Filter invalid.
pub const TOPIC_LEVELS_MAX: usize = 128;
