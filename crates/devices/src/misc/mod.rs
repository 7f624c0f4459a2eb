//! Small devices of a few ports each: debug console, debug exit, panic notice, POST code, port 0x92.

pub mod debug_console;
pub mod debug_exit;
pub mod post;
pub mod pvpanic;
pub mod signal;
pub mod system_control;

pub use debug_console::DebugConsole;
pub use debug_exit::DebugExit;
pub use post::PostCode;
pub use pvpanic::{PanicEvent, Pvpanic};
pub use signal::Signal;
pub use system_control::SystemControl;
