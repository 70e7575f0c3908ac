//! The thin driver.
