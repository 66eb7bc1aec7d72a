"""Words, sentence frames and questions of the conversations that benchmarks.ultrachat writes.

Written for this project. A frame's slots are the words of its voice, made words (place, person, number) and, in
English, the things of one subject. Nouns are plural, so that every filling agrees with its verb.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Voice:
    """One language. Every question names a person, a place and a number, which tells its row from all others."""

    questions: tuple[str, ...]
    follow_ups: tuple[str, ...]
    openings: tuple[str, ...]
    frames: tuple[str, ...]
    words: dict[str, tuple[str, ...]]


def listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


SUBJECTS = {
    "gardening": listed(
        "seedlings, hedges, orchards, greenhouses, tulips, compost heaps, trellises, raised beds, pruning shears"
    ),
    "baking": listed(
        "sourdough loaves, pastries, oven stones, rye starters, meringues, proofing baskets, tart shells, glazes"
    ),
    "sailing": listed("spinnakers, moorings, tide tables, keels, rigging wires, harbour pilots, storm jibs, log books"),
    "astronomy": listed(
        "telescopes, nebulae, eclipses, star charts, comet tails, observatories, spectrographs, dim galaxies"
    ),
    "medicine": listed(
        "clinical trials, vaccines, ward rounds, blood tests, symptoms, dosages, case histories, X-rays"
    ),
    "law": listed(
        "contracts, appeals, statutes, witness statements, tenancy agreements, precedents, juries, court fees"
    ),
    "music": listed("string quartets, rehearsals, chord changes, drum loops, encores, sheet scores, choirs, melodies"),
    "film": listed(
        "screenplays, close-ups, editors’ cuts, soundtracks, casting calls, matinées, storyboards, archives"
    ),
    "railways": listed(
        "timetables, signal boxes, sleeper cars, level crossings, freight yards, viaducts, tickets, platforms"
    ),
    "energy": listed("wind turbines, heat pumps, batteries, grid operators, solar roofs, tariffs, substations, meters"),
    "software": listed(
        "unit tests, message queues, caches, release notes, code reviews, schemas, stack traces, containers"
    ),
    "teaching": listed(
        "lesson plans, exams, field trips, reading groups, timetables, report cards, classrooms, homework sheets"
    ),
    "history": listed("parish registers, treaties, dynasties, trade routes, letters, ruins, chronicles, census rolls"),
    "sports": listed(
        "penalty shoot-outs, relay teams, training camps, league tables, injuries, stadiums, coaches, medals"
    ),
    "fashion": listed("fabrics, hemlines, catwalks, sewing patterns, vintage coats, dye baths, ateliers, buttons"),
    "travel": listed("ferries, guidebooks, hostels, visas, night buses, mountain huts, postcards, souvenir stalls"),
    "finance": listed("index funds, mortgages, ledgers, interest rates, audits, dividends, budgets, exchange fees"),
    "chemistry": listed("catalysts, crystals, titrations, polymers, reagents, flasks, isotopes, fume hoods"),
    "farming": listed("barns, harvests, dairy herds, irrigation ditches, silos, tractors, crop rotations, fence posts"),
    "architecture": listed(
        "façades, courtyards, spiral stairs, load-bearing walls, skylights, floor plans, arches, cladding panels"
    ),
    "oceans": listed("coral reefs, currents, kelp forests, trawlers, whale songs, estuaries, buoys, deep trenches"),
    "cycling": listed(
        "gear hubs, cargo bikes, bicycle lanes, time trials, spokes, puncture kits, mountain passes, saddles"
    ),
    "photography": listed("lenses, darkrooms, exposures, portraits, tripods, contact sheets, filters, negatives"),
    "chess": listed(
        "openings, endgames, rook sacrifices, tournament clocks, pawn chains, notebooks, simul displays, ratings"
    ),
    "insects": listed(
        "beehives, moth traps, ant colonies, dragonflies, larvae, pollinators, field guides, nectar plants"
    ),
    "cities": listed(
        "tram stops, parks, zoning plans, rent caps, libraries, night markets, roof terraces, water mains"
    ),
    "theatre": listed("monologues, stage sets, understudies, costumes, premières, ensembles, curtain calls, prompts"),
    "geology": listed("fossils, fault lines, lava fields, sediments, core samples, glaciers, mineral veins, caves"),
    "coffee": listed(
        "roasts, espresso machines, filter papers, plantations, tasting notes, grinders, cafés, milk jugs"
    ),
    "robots": listed(
        "grippers, sensors, joint motors, warehouse drones, safety cages, control loops, arms, prototypes"
    ),
    "languages": listed("dialects, verb forms, loanwords, phrasebooks, accents, dictionaries, idioms, grammars"),
    "toys": listed("puzzles, wooden trains, puppets, board games, kites, building bricks, marbles, dolls’ houses"),
}

ENGLISH = Voice(
    questions=(
        "Write a report of {number} words on {thing} for {person}, who lives in {place}, and mention {thing}.",
        "{person} from {place} has {number} questions about {thing}. Where should one start, and what is too much?",
        "Can you explain how {thing} and {thing} differ? My neighbour {person} moved to {place} with {number} of them.",
        "I am planning a workshop in {place} with {person} for {number} guests. Which {adj} {thing} belong in it?",
        "Create a {adj} story of {number} words set in {place}, in which {person} discovers {adj} {thing}.",
        "Summarise what {person} said in {place} about {thing}, in no more than {number} words, please.",
        "How did {thing} change life in {place}? {person} claims that {number} {people} still {verb} {thing}.",
        "Draft a letter to {person} at {number} Mill Road, {place}, that asks for {adj} {thing}.",
        "What are the pros and cons of {thing}? Answer for {person}, who keeps {number} of them near {place}.",
        "Please help {person} of {place} to compare {adj} {thing} with {thing}; the limit is {number} words.",
        "Write a product description for {thing} that {person} sells in {place} for {number} dollars.",
        "Write a script that lists {number} {thing} for {person} in {place}, and explain every step of it.",
    ),
    follow_ups=(
        "Thanks! Could you say more about {thing} for {person}?",
        "That is useful. How would {people} in {place} {verb} {thing}?",
        "Can you rewrite that for {person}, with {number} words less and more about {thing}?",
        "I don’t quite follow. Why do {adj} {people} {verb} {thing} {adv}?",
        "Great, now add an example with {thing} and {adj} {thing}, please.",
        "What would {person} say against it?",
        "And what about {thing}? I heard that {people} near {place} {verb} them {adv}.",
        "Please continue, and keep in mind that {person} has only {number} of them.",
    ),
    openings=(
        "Certainly! Here is what matters for {person} in {place}:",
        "Of course. Let us look at the {number} cases that {person} asked about.",
        "I’m glad you asked, {person}.",
        "Sure, here is a version for {people} in {place}:",
        "As an assistant I have never been to {place}, but {people} there {verb} {thing} {adv}.",
        "Title: {person} and the {adj} {thing}",
        "Dear {person},",
        "There are {number} points worth knowing:",
    ),
    frames=(
        "In {place}, {adj} {people} {verb} {thing} {when}.",
        "{adj} {thing} {adv} {need} {thing}, {because} {people} {verb} them {when}.",
        "According to {person}, about {number} {thing} {need} {quality} before they are {done}.",
        "“{thing} are never {adj},” said {person}, “unless {people} {verb} them {adv}.”",
        "When {people} {verb} {adj} {thing}, the {people} of {place} {adv} ask for {quality}.",
        "It helps to keep {thing} and {thing} apart, {because} both {need} {quality} {when}.",
        "{when}, {number} {people} from {place} {verb} {thing} and {adv} share their {quality}.",
        "A study by {person} found that {adj} {thing} are {done} in {number} of {number} cases.",
        "Although {thing} look {adj}, {people} with {quality} {verb} them {adv}.",
        "First, check whether the {thing} are {done}; then let the {people} {verb} the {adj} {thing}.",
        "{quality} and {quality} decide how {adv} {people} {verb} {thing} in {place}.",
        "The {thing} near {place} were {done} by {person} and {number} {adj} {people}.",
        "Some {people} prefer {adj} {thing}, {because} {thing} cost {number} dollars {when}.",
        "Without {quality}, even {adj} {thing} {adv} disappoint {people}.",
        "{person} remembered the {adj} {thing} of {place}, which were {done} {when}.",
        "This means that {thing} should be {done} {adv}, not only {when}.",
        "One {number}-page guide from {place} tells {people} how to {verb} {thing} with {quality}.",
        "Don’t forget that {people} {verb} {adj} {thing} more {adv} than {thing}.",
        "If {person} is right, {thing} will be {done} {when}, and {quality} will follow.",
        "Between {place} and {place}, {people} {adv} exchange {thing} for {adj} {thing}.",
        "Their {quality} is {adj}: {number} {thing} were {done} {when}, {number} more {adv} rejected.",
        "Many {people} say {thing} bring {quality}, yet {person} calls them {adj} and {adj}.",
        "For {adj} results, {verb} the {thing} {when} and leave {number} minutes for the {thing}.",
        "The café in {place} shows {adj} {thing}, {done} {when} by {person}’s {people}.",
    ),
    words={
        "adj": listed(
            "careful, modern, fragile, local, expensive, reliable, ancient, colourful, efficient, unusual, popular, "
            "sturdy, gentle, complex, forgotten, seasonal, affordable, delicate, experimental, traditional, noisy, "
            "portable, transparent, rural, ambitious, renewable, handmade, precise, remote, narrow, generous, "
            "temporary, formal, bilingual, digital, hollow, vivid, sustainable, practical, curious, elegant, rigid, "
            "subtle, widespread, rare, weathered, abundant, restless"
        ),
        "adv": listed(
            "often, rarely, quietly, gradually, deliberately, willingly, openly, steadily, seldom, promptly, "
            "jointly, eagerly, carefully, reluctantly, quickly, politely, now and then, almost always, with little "
            "effort, in turn, without hesitation, step by step, for the most part"
        ),
        "people": listed(
            "apprentices, engineers, neighbours, volunteers, teachers, officials, researchers, grandparents, "
            "merchants, visitors, nurses, designers, translators, students, inspectors, critics, pensioners, "
            "carpenters, librarians, commuters, journalists, beginners, owners, historians, mechanics, musicians, "
            "guides, children, farmers, accountants"
        ),
        "verb": listed(
            "compare, repair, collect, describe, inspect, borrow, measure, restore, replace, protect, recommend, "
            "sketch, question, catalogue, import, finance, rebuild, discuss, examine, label, photograph, transport, "
            "polish, store, sort, adapt, test, monitor, assemble, study"
        ),
        "need": listed("require, deserve, reward, demand, need, attract, encourage, reveal, support"),
        "done": listed(
            "restored, measured, abandoned, approved, recorded, rebuilt, discovered, insured, delivered, tested, "
            "donated, repainted, documented, imported, auctioned, certified, redesigned, sealed"
        ),
        "quality": listed(
            "patience, accuracy, daylight, teamwork, funding, silence, curiosity, experience, moisture, discipline, "
            "humour, trust, flexibility, fresh air, maintenance, preparation, evidence, balance, naïveté, storage "
            "space, training, planning, creativity, attention, insurance, good judgement"
        ),
        "because": ("because", "since", "even though", "so that", "as long as", "while", "although", "whenever"),
        "when": listed(
            "in early spring, before the first frost, every other Tuesday, during the holidays, after a long "
            "winter, at dawn, once a year, over the following decade, on market days, within a few weeks, towards "
            "the end of the century, late at night, during wartime, throughout the season, at short notice, in the "
            "meantime, by the end of May, after lunch, under supervision, in the rainy months"
        ),
    },
)

SPANISH = Voice(
    questions=(
        "¿Puedes explicar qué son {thing} a {person}, de {place}, en {number} palabras?",
        "Escribe una carta para {person} en {place} sobre {thing} y {thing}, con un precio de {number} euros.",
    ),
    follow_ups=("¿Y qué opina {person} de {thing}?", "Gracias. ¿Cuántos vecinos de {place} necesitan {thing}?"),
    openings=("¡Claro! Esto es lo más importante para {person}:", "Por supuesto, aquí van {number} ideas:"),
    frames=(
        "En {place}, {number} vecinos {verb} {thing} {when}.",
        "Según {person}, {thing} {verb} {thing}, aunque también exigen {quality}.",
        "{when}, {person} encontró {thing} en {place} y los vendió por {number} pesos.",
        "Sin {quality}, nadie entiende por qué {thing} {verb} {thing} {when}.",
        "«No hay {quality} sin {quality}», decía {person} {when}, mientras miraba {thing}.",
    ),
    words={
        "thing": listed(
            "los caminos, las canciones, los árboles, las estaciones, los niños, los mercados, las lámparas, los "
            "sueños, los inviernos, las montañas, los pájaros, las máquinas"
        ),
        "verb": listed("recuerdan, esperan, cuidan, cambian, visitan, protegen, estudian, acompañan"),
        "when": listed("por la mañana, cada año, durante el otoño, después de la lluvia, a última hora, en verano"),
        "quality": listed("paciencia, ilusión, atención, energía, comprensión, imaginación"),
    },
)

FRENCH = Voice(
    questions=(
        "Peux-tu expliquer {thing} à {person}, qui habite à {place}, en {number} mots ?",
        "Rédige un article de {number} mots sur {thing} pour le journal de {place}, signé {person}.",
    ),
    follow_ups=("Et que pense {person} de {thing} ?", "Merci ! À {place}, combien coûtent {thing} ?"),
    openings=("Bien sûr ! Voici l’essentiel pour {person} :", "Avec plaisir. Il y a {number} points à retenir :"),
    frames=(
        "À {place}, {number} élèves {verb} {thing} {when}.",
        "D’après {person}, {thing} {verb} {thing}, même si cela demande de la {quality}.",
        "{when}, {person} a trouvé {thing} près de {place} pour {number} euros.",
        "Sans {quality}, on ne comprend pas pourquoi {thing} {verb} {thing} {when}.",
        "« La {quality}, c’est la {quality} », répétait {person} {when}, devant {thing}.",
    ),
    words={
        "thing": listed(
            "les forêts, les châteaux, les élèves, les fenêtres, les théâtres, les rivières, les fêtes, les "
            "métiers, les îles, les œuvres, les légumes, les hôpitaux"
        ),
        "verb": listed("protègent, décrivent, préfèrent, étudient, répètent, achètent, célèbrent, découvrent"),
        "when": listed("à l’aube, chaque été, pendant l’hiver, après la récolte, le dimanche, au début du siècle"),
        "quality": listed("patience, mémoire, créativité, précision, liberté, générosité"),
    },
)

GERMAN = Voice(
    questions=(
        "Kannst du {person} aus {place} erklären, warum {thing} so beliebt sind, in {number} Wörtern?",
        "Schreibe für {person} eine Geschichte mit {number} Wörtern über {thing} in {place}.",
    ),
    follow_ups=("Und was hält {person} davon?", "Danke! Wie viele {thing} gibt es noch in {place}?"),
    openings=("Natürlich! Für {person} ist Folgendes wichtig:", "Gern, hier sind {number} Gründe:"),
    frames=(
        "In {place} {verb} {number} Gäste {when} {thing}.",
        "Laut {person} {verb} {thing} auch {thing}, obwohl dafür {quality} nötig ist.",
        "{when} fand {person} bei {place} {thing} für {number} Euro.",
        "Ohne {quality} {verb} {thing} {when} kaum {thing}.",
        "„Mehr {quality}, weniger {quality}“, sagte {person} {when} und zählte {thing}.",
    ),
    words={
        "thing": listed(
            "Bücher, Gärten, Brücken, Züge, Märkte, Schlösser, Flüsse, Vögel, Gemälde, Öfen, Hügel, Städte, Straßen"
        ),
        "verb": listed("prüfen, genießen, schätzen, verändern, überqueren, führen, zählen, begrüßen"),
        "when": listed(
            "im Frühjahr, jeden Morgen, nach der Prüfung, während der Ferien, seit Jahren, zu später Stunde"
        ),
        "quality": listed("Geduld, Übung, Größe, Verständnis, Höflichkeit, Glück"),
    },
)

RUSSIAN = Voice(
    questions=("Расскажи, зачем людям {thing}: вопрос задал {person} из города {place}, ответ до {number} слов.",),
    follow_ups=("Спасибо! А что об этом думает {person}?", "А сколько стоят {thing} в городе {place}?"),
    openings=("Конечно! Вот что важно знать, {person}:", "Хорошо, начнём с {number} примеров."),
    frames=(
        "В городе {place} {thing} {verb} {thing} {when}.",
        "{when} {person} купил {thing} за {number} рублей, и это изменило всё.",
        "Говорят, что {thing} {verb} {thing}, если хватает сил и времени.",
    ),
    words={
        "thing": listed("книги, песни, дороги, письма, картины, часы, мосты, сады, лодки, зимние вечера, старые дома"),
        "verb": listed("украшают, меняют, объединяют, напоминают, дополняют, скрывают"),
        "when": listed("каждую весну, по утрам, после войны, в начале века, летом, почти всегда"),
    },
)

CHINESE = Voice(
    questions=("请向住在{place}的{person}介绍一下{thing}和{thing},大约{number}个字。",),
    follow_ups=("谢谢!{person}还想知道{thing}的历史。", "那么{place}的{thing}一共有{number}个吗?"),
    openings=("当然可以,{person}!下面是几个要点:", "好的,我们从{number}个例子开始。"),
    frames=(
        "在{place},人们{when}用{thing}来{verb}{thing}。",
        "{person}认为,{thing}比{thing}更容易{verb},价格约为{number}元。",
        "{when},有{number}个人来到{place}{verb}{thing}。",
    ),
    words={
        "thing": listed("茶叶, 书法, 灯笼, 古桥, 机器, 音乐, 花园, 地图, 船只, 瓷器, 丝绸, 故事"),
        "verb": listed("研究, 保护, 比较, 欣赏, 制作, 记录, 交换"),
        "when": listed("每年春天, 清晨, 节日期间, 几百年来, 下雨的时候, 最近"),
    },
)

# How many of a thousand conversations; the others are in English.
OTHER_VOICES = ((SPANISH, 12), (FRENCH, 10), (GERMAN, 8), (RUSSIAN, 4), (CHINESE, 4))

FIRST_NAMES = listed(
    "Amara, Björn, Chloé, Dmitri, Elif, Farah, Gustav, Hana, Inés, José, Kwame, Leïla, Mateus, Nadia, Owen, Priya, "
    "Quentin, Rosa, Søren, Tomás, Uma, Viktor, Wren, Ximena, Yusuf, Zoë, Agnes, Bruno, Celia, Daan, Edith, Fabio, "
    "Greta, Hugo, Irma, Jonas, Kofi, Lucía, Miriam, Noah, Olga, Pavel, Rhea, Silas, Talia, Ugo, Vera, Walter, Yara, "
    "Zdeněk"
)
NAME_STARTS = listed(
    "Al, Bar, Cor, Den, El, Fal, Gar, Hol, Is, Jen, Kal, Lor, Mar, Nor, Ost, Pel, Quin, Ros, Sal, Tor, Ul, Ver, "
    "Wil, Yor, Zan, Brom"
)
NAME_MIDDLES = listed("a, be, cka, do, en, fi, gu, ha, i, li, mo, na, or, pe, ri, sto, ta, u, va, wi")
SURNAME_ENDS = listed("dez, son, ller, wicz, mann, tti, gren, dis, ska, ford, well, oğlu, nov, ard, lund")
PLACE_ENDS = listed("bury, stad, ville, ton, burgh, minster, port, field, grad, haven, mouth, holm")

# A code block of a language: its lines hold the slots a, b (identifiers), n (a number) and s (a text).
CODE = {
    "python": (
        "import json\nfrom pathlib import Path\n\n\ndef load_{a}(path: Path, limit: int = {n}) -> list[dict]:\n"
        '    """Reads the first {a} of a file."""\n    rows = [json.loads(line) for line in path.open()]\n'
        '    return [row for row in rows if row["{b}"] != "{s}"][:limit]\n',
        "class {a}Store:\n    def __init__(self, {b}: int = {n}) -> None:\n        self.{b} = {b}\n"
        "        self.items = {{}}\n\n"
        "    def add(self, name, value):\n        if len(self.items) >= self.{b}:\n"
        '            raise ValueError(f"no room for {{name}}: {s}")\n        self.items[name] = value\n',
    ),
    "javascript": (
        "const {a} = await fetch(`/api/{b}?limit={n}`);\nconst rows = await {a}.json();\n"
        'rows.filter((row) => row.{b} > {n}).forEach((row) => {{\n  console.log("{s}", row.name);\n}});\n',
    ),
    "sql": (
        "SELECT {a}, COUNT(*) AS total\nFROM {b}\nWHERE created_at > '2{n}-01-01' AND note LIKE '%{s}%'\nGROUP BY {a}\n"
        "ORDER BY total DESC\nLIMIT {n};\n",
    ),
    "bash": (
        "#!/bin/sh\nset -eu\nfor {a} in data/{b}-*.csv; do\n"
        '\tsort -t, -k2 "${a}" | head -n {n} > "out/${{{a}##*/}}"\ndone\necho "{s}"\n',
    ),
}
