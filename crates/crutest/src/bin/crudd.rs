//! The program `crudd`: copies an image into a volume, or a volume into an image.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use crutest::args::VolumeOptions;
use crutest::attach::{self, Attachment};
use crutest::copy::Copy;
use crutest::program;
use indicatif::{ProgressBar, ProgressStyle};

/// Copies an image into a Crucible volume, or a volume into an image.
#[derive(Debug, Parser)]
#[command(name = "crudd", version, disable_help_subcommand = true, after_help = EXAMPLE)]
struct Arguments {
    /// Which way.
    #[command(subcommand)]
    direction: Direction,
    /// Which volume.
    #[command(flatten)]
    volume: VolumeOptions,
    /// Which part of it.
    #[command(flatten)]
    part: Part,
}

const EXAMPLE: &str = "\
Example, for the three region servers of `dsc start --create --encrypted`:

    crudd write disk.img --skip-zeroes -k $KEY --gen 1 -t 127.0.0.1:8810 -t 127.0.0.1:8820 -t 127.0.0.1:8830
    crudd read copy.img                -k $KEY --gen 2 -t 127.0.0.1:8810 -t 127.0.0.1:8820 -t 127.0.0.1:8830";

#[derive(Debug, Subcommand)]
enum Direction {
    /// From the volume into an image; blocks of zeroes become holes
    Read {
        /// The image; what it holds is replaced
        image: PathBuf,
    },
    /// From an image into the volume
    Write {
        /// The image
        image: PathBuf,
        /// Leave out blocks of zeroes: right only on a volume that was never written
        #[arg(long)]
        skip_zeroes: bool,
    },
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The part")]
struct Part {
    /// Where in the volume to begin, in bytes
    #[arg(
        short = 'b',
        long,
        global = true,
        value_name = "BYTES",
        default_value_t = 0
    )]
    byte_offset: u64,
    /// How many bytes; without it all of the volume, or of the image that is written
    #[arg(short = 'n', long, global = true, value_name = "BYTES")]
    num_bytes: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::start_log();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&format!("crudd: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Where would a failure to complain be told?
fn say(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let stop = program::stop_flag().map_err(|error| error.to_string())?;
    // Before anybody else loses the volume to us.
    let (path, image) = match &arguments.direction {
        Direction::Read { image } => (image, File::create(image)),
        Direction::Write { image, .. } => (image, File::open(image)),
    };
    let image = image.map_err(|error| format!("{}: {error}", path.display()))?;
    let attachment = attach::attach(&arguments.volume, None)?;
    attach::activate(
        &attachment,
        arguments.volume.retry_activate,
        &stop,
        &mut say,
    )?;
    let copied = copy(arguments, path, &image, &attachment, &stop);
    let let_go = attachment.volume.deactivate_blocking();
    copied?;
    let_go.map_err(|error| error.to_string())
}

fn copy(
    arguments: &Arguments,
    path: &Path,
    image: &File,
    attachment: &Attachment,
    stop: &AtomicBool,
) -> Result<(), String> {
    let volume = &attachment.volume;
    let field = attach::field(volume)?;
    let mut length = arguments.part.num_bytes;
    if length.is_none() && matches!(arguments.direction, Direction::Write { .. }) {
        let metadata = image.metadata();
        let bytes = metadata
            .map_err(|error| format!("{}: {error}", path.display()))?
            .len();
        length = Some(bytes.next_multiple_of(u64::from(field.block_size)));
    }
    let copy = Copy::new(volume, &field, arguments.part.byte_offset, length, stop)
        .map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let bar = ProgressBar::new(copy.length()).with_style(style());
    let progress = &mut |bytes| bar.set_position(bytes);
    match &arguments.direction {
        Direction::Read { .. } => copy.to_image(image, progress),
        Direction::Write { skip_zeroes, .. } => copy.from_image(image, *skip_zeroes, progress),
    }
    .map_err(|error| format!("{}: {error}", path.display()))?;
    bar.finish_and_clear();
    say(&format!(
        "{} MiB copied in {:.1} s",
        copy.length() >> 20,
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Shown on a terminal only.
fn style() -> ProgressStyle {
    let template = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
