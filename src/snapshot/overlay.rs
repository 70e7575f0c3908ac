//! The overlay driver.
