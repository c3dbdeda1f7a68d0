"""Pieces of the random strings on which tokenizers are compared; no marker can be put together from them."""

WORDS = """
Hello| world|the| of|I|a|tokenizer|antidisestablishmentarianism|iPhone|McDonald|HTTPServer|snake_case|camelCase|XMLHttp
naïve|Straße| œuvre|İstanbul|ıspanak|ŁÓDŹ|Привет| мир|Ελληνικά|ΣΊΣΥΦΟΣ|Հայերեն|ქართული|ᲥᲐᲠᲗᲣᲚᲘ|ǅ|ŉ|ﬁnal|ﬆ|ʰʷ|ªº
'|"|’s|'s|'S|'t|'T|'re|'RE|'Ve|'m|'M|'ll|'LL|'d|'D|'ſ|can't|DON'T|we'll|it's|y'all've|'sup|x'y
""".replace("\n", "|").strip("|").split("|")

CODE = [
    "fn main() {\n    let x = vec![1, 2];\n}\n",
    "for (int i=0;i<10;++i){a[i]+=b;}",
    "def f(x):\n\treturn x**2\n",
    "#!/bin/sh\nset -e\n",
    "<div class=\"a\">&nbsp;</div>",
    "SELECT * FROM t WHERE a <> 'b';",
    '{"a": 1, "b": [true, null], "c": {"d": "\\u00e9"}}',
    '{"k":"v"}',
    "https://example.com/a?b=c&d=%20#e",
    "user@example.org",
    "C:\\dir\\file.txt",
    "../a/b",
    "-->",
    "=>",
    "::<>()",
    "/* c */",
    "//",
    "```",
    "$x_1 = \\frac{a}{b}$",
    "<",
    ">",
    "</",
    "<|",
    "|>",
    "_",
    "__init__",
]

SPACE = [
    " ",
    "  ",
    "    ",
    "        ",
    " " * 17,
    " " * 40,
    "\t",
    "\t\t",
    " \t ",
    "\n",
    "\n\n",
    "\n\n\n\n",
    " \n",
    "\n ",
    "\n  \n",
    "\r",
    "\r\n",
    "\r\n\r\n",
    "\n\r",
    "\v",
    "\f",
    "\u0085",
    "\u00a0",
    "\u00a0\u00a0",
    "\u1680",
    "\u2003",
    "\u2009",
    "\u2028",
    "\u2029",
    "\u202f",
    "\u205f",
    "\u3000",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u200e",
    "\u202e",
]

DIGITS = """
0|7|42|123|1234|12345|123456|1234567|12345678|123456789|1234567890|3.14|-1e-9|1,000|0x1F|2024-06-30|12:30|1st|v2|x86_64
٣٤٥|१२३४|๔๕|５６７８|Ⅷ|½|①②|²³|𝟙𝟚|〇|十二
""".replace("\n", "|").strip("|").split("|")

ASIAN = """
中文|你好，世界！|的|我们在测试|漢字|龍|𠀀|𪚥|。|「引用」|日本語|こんにちは|カタカナ|ｶﾀｶﾅ|ー|々|ゝ|東京タワー|한국어|안녕하세요|ㄱㄴ|각|㍿|㊗|中a文|A中|中1
นะครับ|สวัสดี|ภาษาไทย|ລາວ|ខ្មែរ|မြန်မာ|བོད་|ᠮᠣᠩᠭᠣᠯ
""".replace("\n", "|").strip("|").split("|")

INDIC_AND_RIGHT_TO_LEFT = """
नमस्ते|हिन्दी|क्ष|বাংলা|தமிழ்|తెలుగు|ಕನ್ನಡ|മലയാളം|සිංහල|ਪੰਜਾਬੀ|العربية|السَّلَامُ|لا|فارسی‌ها|עברית|שָׁלוֹם|ދިވެހި|አማርኛ|ᏣᎳᎩ|ꮳꮃꭹ
""".replace("\n", "|").strip("|").split("|")

COMBINING = [
    "e\u0301",
    "E\u0301",
    "a\u0308\u0323",
    "a\u0323\u0308",
    "\u00e9",
    "q\u0307\u0323",
    "\u0301",
    " \u0301",
    "o\u0302\u0301",
    "\u1100\u1161\u11a8",
    "\uac00\u11a8",
    "A\u030a",
    "\u212b",
    "\u2126",
    "\u212a",
    "\u0344",
    "\u0958",
    "\u0915\u093c",
    "\ufb2a",
    "\uf900",
    "n\u0303n\u0303",
    "z" + "\u0300" * 12,
    "\u0b4d",
    "\u20dd",
]

SYMBOLS = """
∀x∈ℝ|∑∫√|≤≥≠|→⇒↔|α+β=γ|ℵ₀|𝔸𝒷|™|©®|€|£¥|₿|°C|±|×÷|…|—|–|“q”|«g»|‽|¿¡|§¶|†‡|•|◆|█▓░|┌─┐|♠♥|☃|✓|⠓⠑|🀄|𝄞|￼|�
""".replace("\n", "|").strip("|").split("|")

PUNCTUATION = [
    *".,;:!?()[]{}-=+*/\\%&^~`@#$|",
    *"!! ?! ... -- --- == ** && ## .... ======== ***** ((( ))) ,,, -=-= !@#$%^&*()".split(),
    ".\n",
    ")\n\n",
    "!\r\n",
    ";\n\t",
    '",',
    '".',
    "),",
    ") ",
    " (",
    " [",
    " -",
    " --",
    ' "',
    " '",
    " .",
    " ,",
    " !",
]

EMOJI = [
    "🙂",
    "😀😃",
    " 🚀",
    "👍🏽",
    "👩\u200d👩\u200d👧\u200d👦",
    "🏳\ufe0f\u200d🌈",
    "🇨🇭",
    "🇩🇪🇫🇷",
    "❤\ufe0f",
    "1\ufe0f\u20e3",
    "🧑🏿\u200d🔬",
    "☺",
    "✨",
    "🫠",
]

CONTROL = ["\0", "\x01", "\x07", "\x08", "\x1b[0m", "\x1f", "\x7f", "\x80", "\x9f", "a\0b"]

RUNS = [
    *["a" * 30, "ab" * 20, "A" * 17, "=" * 64, "-" * 33, "." * 21],
    *["\n" * 9, "9" * 25, "é" * 15, "あ" * 12, "中" * 20, "🙂" * 6],
]

RARE = ["𐍈𐌿𐍄", "𒀀𒁀", "𓀀𓂀", "𐐔𐐯", "ⰃⰎ", "ᚠᚢᚦ", "ꙮ", "ᚁ\u1680ᚂ", "𞤀𞤁", "ꓐꓑ", "𖼀", "Ⴀⴀ", "ꟺ", "ǆǅǄ", "\u00df\u1e9e"]

# Drawn once from all planes: assigned, private, unassigned and noncharacters.
CODE_POINTS = [
    0x0378, 0x0B83, 0x0E5B, 0x0FD9, 0x10FB, 0x1373, 0x17B4, 0x1806, 0x19DA, 0x1D2B, 0x1FBD, 0x2071, 0x218B, 0x2A5C,
    0x2CF9, 0x2E2F, 0x303D, 0x309F, 0x3164, 0x31F7, 0x4DC0, 0xA015, 0xA4D3, 0xA67C, 0xA8F2, 0xAB5B, 0xD7B0, 0xE000,
    0xFB1D, 0xFDD0, 0xFDFA, 0xFE0F, 0xFE58, 0xFFA0, 0xFFF9, 0xFFFF, 0x10107, 0x10330, 0x10A0D, 0x1109A, 0x11FFF,
    0x1B000, 0x1D165, 0x1D7CE, 0x1E8D0, 0x1F0A1, 0x1F1E6, 0x1FA70, 0x20B9F, 0x2F804, 0x30000, 0xE0001, 0xE0100,
    0xF0000, 0x10FFFF,
]  # fmt: skip

PIECES = [
    *WORDS,
    *CODE,
    *SPACE,
    *DIGITS,
    *ASIAN,
    *INDIC_AND_RIGHT_TO_LEFT,
    *COMBINING,
    *SYMBOLS,
    *PUNCTUATION,
    *EMOJI,
    *CONTROL,
    *RUNS,
    *RARE,
    *map(chr, CODE_POINTS),
]
