import Glibc

/// Standard output and standard error, unbuffered.
enum Output {
    static func text(_ text: String) { write(text, to: STDOUT_FILENO) }
    static func error(_ text: String) { write(text, to: STDERR_FILENO) }

    private static func write(_ text: String, to descriptor: Int32) {
        var text = text
        // The bytes live for the call; what cannot be written has no other reader.
        text.withUTF8 { bytes in
            var done = 0
            while done < bytes.count, let base = bytes.baseAddress {
                let count = unsafe Glibc.write(descriptor, base + done, bytes.count - done)
                if count <= 0 { return }
                done += count
            }
        }
    }
}
