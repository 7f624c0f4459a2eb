//! Who says whether what happened may happen. Nothing here knows how the volume works.

mod answers;
mod history;

pub use answers::{Answers, Asked};
pub use history::{Epoch, History, View};
