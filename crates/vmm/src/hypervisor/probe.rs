//! Which backend to take.

use std::sync::Arc;

use super::soft::Soft;
use super::{Hypervisor, HypervisorError};
use crate::machine::config::HypervisorChoice;

/// The backend for `choice`. `Auto` takes the best one that really works here and logs why the others do
/// not.
///
/// Errors: a backend that was asked for by name does not work here.
pub fn probe(choice: HypervisorChoice) -> Result<Arc<dyn Hypervisor>, HypervisorError> {
    match choice {
        HypervisorChoice::Soft => Ok(Arc::new(Soft)),
        HypervisorChoice::Kvm => Err(unavailable("kvm", kvm_state())),
        HypervisorChoice::Bhyve => Err(unavailable("bhyve", bhyve_state())),
        HypervisorChoice::Auto => {
            if cfg!(target_os = "illumos") {
                tracing::info!(hypervisor = "bhyve", reason = bhyve_state(), "passed over");
            } else {
                tracing::info!(hypervisor = "kvm", reason = kvm_state(), "passed over");
            }
            tracing::info!(hypervisor = "soft", "chosen");
            Ok(Arc::new(Soft))
        }
    }
}

fn unavailable(name: &'static str, state: &str) -> HypervisorError {
    HypervisorError::Unavailable {
        name,
        reason: format!("{state}; \"soft\" works everywhere"),
    }
}

fn kvm_state() -> &'static str {
    if !cfg!(target_os = "linux") {
        "there is none on this system"
    } else if std::path::Path::new("/dev/kvm").exists() {
        "not built in yet, although /dev/kvm is there"
    } else {
        "not built in yet, and there is no /dev/kvm"
    }
}

fn bhyve_state() -> &'static str {
    if !cfg!(target_os = "illumos") {
        "there is none on this system"
    } else if std::path::Path::new("/dev/vmmctl").exists() {
        "not built in yet, although /dev/vmmctl is there"
    } else {
        "not built in yet, and there is no /dev/vmmctl"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_what_works_and_names_are_taken_literally() {
        assert_eq!(probe(HypervisorChoice::Auto).unwrap().name(), "soft");
        assert_eq!(probe(HypervisorChoice::Soft).unwrap().name(), "soft");
        for (choice, name) in [
            (HypervisorChoice::Kvm, "kvm"),
            (HypervisorChoice::Bhyve, "bhyve"),
        ] {
            let text = probe(choice).unwrap_err().to_string();
            assert!(text.starts_with(&format!("hypervisor {name}: ")), "{text}");
            assert!(text.ends_with("\"soft\" works everywhere"), "{text}");
        }
    }
}
