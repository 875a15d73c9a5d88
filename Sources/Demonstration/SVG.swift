internal import Loopback

/// The few shapes of SVG 1.1 that a chart needs.
struct SVG {
    enum Anchor: String {
        case start, middle, end
    }

    /// How a text looks; the raw value is its class in the style sheet.
    enum Style: String {
        case title, heading, label, quiet, mark
    }

    private let width, height: Double
    private var body: [String] = []

    init(width: Double, height: Double) {
        self.width = width
        self.height = height
    }

    /// Roughly, for a label: there is nothing here that could measure a font.
    static func width(of label: String) -> Double { Double(label.count) * 7 }

    mutating func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, stroke: String, dashes: String? = nil) {
        let dashing = dashes.map { " stroke-dasharray=\"\($0)\"" } ?? ""
        body.append(
            "<line x1=\"\(Self.number(x1))\" y1=\"\(Self.number(y1))\" x2=\"\(Self.number(x2))\" "
                + "y2=\"\(Self.number(y2))\" stroke=\"\(stroke)\"\(dashing)/>")
    }

    mutating func rectangle(x: Double, y: Double, width: Double, height: Double, fill: String, opacity: Double) {
        body.append(
            "<rect x=\"\(Self.number(x))\" y=\"\(Self.number(y))\" width=\"\(Self.number(width))\" "
                + "height=\"\(Self.number(height))\" fill=\"\(fill)\" fill-opacity=\"\(opacity)\"/>")
    }

    /// A line through points, with the area below it in a lighter shade.
    mutating func curve(_ points: [(x: Double, y: Double)], colour: String) {
        let list = points.map { "\(Self.number($0.x)),\(Self.number($0.y))" }.joined(separator: " ")
        body.append(
            "<polygon points=\"\(list)\" fill=\"\(colour)\" fill-opacity=\"0.18\" stroke=\"\(colour)\" "
                + "stroke-width=\"1.8\" stroke-linejoin=\"round\"/>")
    }

    mutating func text(
        _ text: String, x: Double, y: Double, _ style: Style, anchor: Anchor = .start, colour: String? = nil,
        isUpright: Bool = false
    ) {
        let place = "x=\"\(Self.number(x))\" y=\"\(Self.number(y))\""
        let fill = colour.map { " fill=\"\($0)\"" } ?? ""
        let turn = isUpright ? " transform=\"rotate(-90 \(Self.number(x)) \(Self.number(y)))\"" : ""
        body.append(
            "<text class=\"\(style.rawValue)\" \(place) text-anchor=\"\(anchor.rawValue)\"\(fill)\(turn)>"
                + "\(Self.escaped(text))</text>")
    }

    /// Everything drawn so far, on white.
    var document: String {
        let size = "width=\"\(Self.number(width))\" height=\"\(Self.number(height))\""
        let head = """
            <?xml version="1.0" encoding="UTF-8"?>
            <svg xmlns="http://www.w3.org/2000/svg" \(size) viewBox="0 0 \(Self.number(width)) \(Self.number(height))">
            <style>
            text { font-family: "DejaVu Sans", Verdana, sans-serif; font-size: 12px; }
            .title { font-size: 20px; font-weight: bold; }
            .heading { font-size: 14px; font-weight: bold; }
            .quiet { fill: #57606a; }
            .mark { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; }
            </style>
            <rect width="100%" height="100%" fill="#ffffff"/>
            """
        return ([head] + body + ["</svg>", ""]).joined(separator: "\n")
    }

    /// Tenths are fine enough for a pixel.
    private static func number(_ value: Double) -> String { Quantity.fixed(value, decimals: 1) }

    private static func escaped(_ text: String) -> String {
        text.reduce(into: "") { escaped, character in
            switch character {
            case "<": escaped += "&lt;"
            case ">": escaped += "&gt;"
            case "&": escaped += "&amp;"
            case "\"": escaped += "&quot;"
            default: escaped.append(character)
            }
        }
    }
}
