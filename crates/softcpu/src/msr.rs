//! Model-specific registers, as a table.
