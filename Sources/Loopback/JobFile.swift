/// A job file that makes no sense: where, and the rule.
public struct JobFileError: Error, Equatable, Sendable, CustomStringConvertible {
    public var file: String
    public var line: Int
    public var rule: String

    public var description: String { "\(file):\(line): \(rule)" }
}

/// fio's job files: sections of `key=value`, comments with `;` or `#`, `[global]` for what the sections behind it share.
///
/// The options are those of the command line under fio's names. Sections run one after the other.
public enum JobFile {
    /// fio options that change nothing here.
    private static let ignored: Set<String> = [
        "group-reporting", "time-based", "stonewall", "thread", "description", "norandommap", "randrepeat",
        "invalidate", "iodepth-batch-submit", "iodepth-batch-complete-min", "iodepth-batch-complete-max",
    ]

    private struct Section {
        var name: String
        var line: Int
        var options: JobOptions
    }

    /// The jobs in a file's text, in order; at least one.
    public static func parse(_ text: String, file: String) throws(JobFileError) -> [JobOptions] {
        var global = JobOptions()
        var sections: [Section] = []
        var isGlobal = true
        var sawSection = false
        for (index, raw) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let line = trimmed(raw)
            let number = index + 1
            guard let first = line.first, first != ";", first != "#" else { continue }
            if first == "[" {
                let name = try sectionName(line, file, number)
                sawSection = true
                isGlobal = name == "global"
                if !isGlobal { sections.append(Section(name: name, line: number, options: global.named(name))) }
            } else {
                guard sawSection else { throw JobFileError(file: file, line: number, rule: "must follow a [section]") }
                let target = isGlobal ? nil : sections.indices.last
                try set(line, file, number, &global, &sections, target)
            }
        }
        guard !sections.isEmpty else { throw JobFileError(file: file, line: 1, rule: "there is no job section") }
        for section in sections { try check(section, file) }
        return sections.map(\.options)
    }

    private static func sectionName(
        _ line: Substring, _ file: String, _ number: Int
    ) throws(JobFileError) -> String {
        let name = trimmed(line.dropFirst().dropLast())
        guard line.last == "]", line.count > 2, !name.isEmpty else {
            throw JobFileError(file: file, line: number, rule: "a section must be written [name]")
        }
        return String(name)
    }

    private static func set(
        _ line: Substring, _ file: String, _ number: Int, _ global: inout JobOptions, _ sections: inout [Section],
        _ target: Int?
    ) throws(JobFileError) {
        let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map { trimmed($0) }
        let key = String(parts[0])
        if ignored.contains(String(key.map { $0 == "_" ? "-" : $0 })) { return }
        guard parts.count == 2 else { throw JobFileError(file: file, line: number, rule: "\(line): must be key=value") }
        do throws(JobOptionError) {
            if let target {
                try sections[target].options.set(key, String(parts[1]))
            } else {
                try global.set(key, String(parts[1]))
            }
        } catch {
            throw JobFileError(file: file, line: number, rule: "\(error.key)=\(error.value): \(error.rule)")
        }
    }

    private static func check(_ section: Section, _ file: String) throws(JobFileError) {
        do throws(JobOptionError) {
            try section.options.check()
        } catch {
            throw JobFileError(file: file, line: section.line, rule: "[\(section.name)]: \(error.key) \(error.rule)")
        }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text
        while let last = text.last, last.isWhitespace { text.removeLast() }
        return text.drop { $0.isWhitespace }
    }
}

extension JobOptions {
    fileprivate func named(_ name: String) -> JobOptions {
        var options = self
        options.name = name
        return options
    }
}
