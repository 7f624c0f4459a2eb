//! Writes the `newc` cpio archives that Linux unpacks as its first root directory.
//!
//! Each member is a header of 13 eight-digit hexadecimal fields after the magic `070701`, the name
//! with its zero byte, padding to four bytes, the content, padding again. Source: the kernel's
//! `initramfs-buffer-format` text.

use std::collections::BTreeSet;

/// An archive under construction. Parents of a member are added when they are missing.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
    members: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// Adds a directory; one that is there already is left alone.
    pub(crate) fn directory(&mut self, path: &str) {
        if !path.is_empty() && !self.names.contains(path) {
            self.parents(path);
            self.member(path, DIRECTORY | 0o755, (0, 0), &[]);
        }
    }

    /// Adds a file with `permissions` (the lower nine bits); one that is there already stays.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        if !self.names.contains(path) {
            self.parents(path);
            self.member(path, REGULAR | permissions, (0, 0), content);
        }
    }

    /// Adds a symbolic link at `path` that says `target`; one that is there already stays.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        if !self.names.contains(path) {
            self.parents(path);
            self.member(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
        }
    }

    /// Adds a character device node.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        if !self.names.contains(path) {
            self.parents(path);
            self.member(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
        }
    }

    /// Ends the archive and returns its bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn member(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.names.insert(path.to_owned());
        self.members += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.members,           // inode
            mode,                   // type and permissions
            0,                      // owner
            0,                      // group
            links,                  // hard links
            0,                      // time of change: the same input gives the same archive
            length(content.len()),  // content
            0,                      // major number of the file system
            0,                      // minor number of it
            device.0,               // major number of a device node
            device.1,               // minor number of it
            length(path.len() + 1), // name with its zero byte
            0,                      // checksum, unused in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A length as the format's 32 bits hold it. Nothing that we put in comes near the limit; a longer
/// content would show as a cut archive in the guest.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: name, mode, content.
    fn members(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let name_length = field(11) as usize;
            let content_length = field(6) as usize;
            let name = String::from_utf8(bytes[110..110 + name_length - 1].to_vec()).unwrap();
            let start = (110 + name_length).next_multiple_of(4);
            let content = bytes[start..start + content_length].to_vec();
            found.push((name, field(1), content));
            bytes = &bytes[(start + content_length).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut archive = Archive::default();
        archive.file("bin/busybox", 0o755, b"12345");
        archive.symlink("bin/sh", "busybox");
        archive.character_device("dev/console", 5, 1);
        let members = members(&archive.finish());
        let names: Vec<&str> = members.iter().map(|member| member.0.as_str()).collect();
        assert_eq!(
            names,
            [
                "bin",
                "bin/busybox",
                "bin/sh",
                "dev",
                "dev/console",
                "TRAILER!!!"
            ]
        );
        assert_eq!(members[1].1, 0o100_755);
        assert_eq!(members[1].2, b"12345");
        assert_eq!(members[2].2, b"busybox");
        assert_eq!(members[4].1, 0o020_600);
    }

    #[test]
    fn a_member_is_added_once() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"first");
        archive.file("a", 0o644, b"second");
        archive.directory("b");
        archive.directory("b");
        let members = members(&archive.finish());
        assert_eq!(members.len(), 3);
        assert_eq!(members[0].2, b"first");
    }

    #[test]
    fn everything_starts_on_four_bytes() {
        for length in 0..9 {
            let mut archive = Archive::default();
            archive.file("abc", 0o644, &vec![7; length]);
            assert_eq!(members(&archive.finish())[0].2, vec![7; length]);
        }
    }

    #[test]
    fn the_same_input_gives_the_same_archive() {
        let build = || {
            let mut archive = Archive::default();
            archive.file("x/y", 0o600, b"z");
            archive.finish()
        };
        assert_eq!(build(), build());
    }
}
