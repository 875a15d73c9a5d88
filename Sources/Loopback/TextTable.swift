/// A table in plain text: the first column to the left, all others to the right.
public struct TextTable: Sendable {
    private let header: [String]
    private var rows: [[String]] = []

    /// A table without rows.
    public init(_ header: [String]) {
        self.header = header
    }

    /// Adds a row; missing cells stay empty, extra ones are left out.
    public mutating func add(_ row: [String]) {
        rows.append(header.indices.map { $0 < row.count ? row[$0] : "" })
    }

    /// All lines, the header's first, without spaces at their ends.
    public var lines: [String] {
        let all = [header] + rows
        let widths = header.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        return all.map { row in
            let cells = row.indices.map { Self.pad(row[$0], to: widths[$0], toLeft: $0 == 0) }
            return Self.trimmed(cells.joined(separator: "  "))
        }
    }

    private static func pad(_ text: String, to width: Int, toLeft: Bool) -> String {
        let space = String(repeating: " ", count: max(width - text.count, 0))
        return toLeft ? text + space : space + text
    }

    private static func trimmed(_ line: String) -> String {
        String(line.reversed().drop { $0 == " " }.reversed())
    }
}
