//! Cuts a byte stream into lines, however it was chunked (K18).

/// Longest line that is taken, in bytes. etcd refuses objects over 1.5 MiB by default and 8 MiB in
/// practice; a line beyond this is a broken stream.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// Collects chunks and gives back whole lines.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that hold no line end, so that they are looked at once.
    searched: usize,
}

/// A line grew beyond [`MAX_LINE_BYTES`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a line of the watch is longer than {MAX_LINE_BYTES} bytes")]
pub struct TooLong;

impl Lines {
    /// Appends one chunk as it came from the network.
    ///
    /// # Errors
    /// When the unfinished line is too long; the stream is of no more use then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), TooLong> {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() > MAX_LINE_BYTES && !self.buffer.contains(&b'\n') {
            return Err(TooLong);
        }
        Ok(())
    }

    /// Takes the next whole line, without its end; blank lines are passed over.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let fresh = self.buffer.get(self.searched..)?;
            let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let rest = self.buffer.split_off(self.searched + at + 1);
            let mut line = std::mem::replace(&mut self.buffer, rest);
            self.searched = 0;
            while line.last().is_some_and(u8::is_ascii_whitespace) {
                line.pop();
            }
            if !line.is_empty() {
                return Some(line);
            }
        }
    }

    /// What is left when the stream has ended: a document without a line end, or a cut one.
    pub fn rest(self) -> Option<Vec<u8>> {
        (!self.buffer.trim_ascii().is_empty()).then_some(self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> (Vec<String>, Option<Vec<u8>>) {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(chunk).expect("short");
            while let Some(line) = lines.next_line() {
                out.push(String::from_utf8(line).expect("utf-8"));
            }
        }
        (out, lines.rest())
    }

    #[test]
    fn k18_any_chunking_gives_the_same_lines() {
        let text = "{\"a\":\"ü€𝄞\"}\n\r\n{\"b\":2}\r\n{\"c\":3}\n".as_bytes();
        let whole = split(&[text]);
        assert_eq!(whole.0, ["{\"a\":\"ü€𝄞\"}", "{\"b\":2}", "{\"c\":3}"]);
        assert_eq!(whole.1, None);
        for first in 0..text.len() {
            for second in first..text.len() {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(split(&parts), whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn k18_lines_of_megabytes_and_a_cut_one() {
        let long = vec![b'x'; 3 << 20];
        let mut text = long.clone();
        text.extend_from_slice(b"\n{\"cut\":");
        let (lines, rest) = split(&text.chunks(1400).collect::<Vec<_>>());
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].len(), long.len());
        assert_eq!(rest.as_deref(), Some(&b"{\"cut\":"[..]));
    }

    #[test]
    fn endless_line_is_an_error() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 16 << 20];
        let results: Vec<_> = (0..5).map(|_| lines.push(&chunk)).collect();
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    }
}
