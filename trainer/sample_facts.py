"""The facts of the sample conversations, and the ways to ask for them.

Written for this project. The last question of a topic is kept for the test_gen split, the one before it for test_sft,
the others are for training: a test row asks for a fact that training rows hold, in words they do not.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Questions and an answer as format strings over a fact's words: {0}, {1}, ..."""

    questions: tuple[str, ...]
    answer: str
    facts: tuple[tuple[str, ...], ...]


CAPITALS = Topic(
    (
        "What is the capital of {0}?",
        "Which city is the capital of {0}?",
        "Tell me the capital of {0}.",
        "I forgot the capital of {0}. Can you help?",
        "Could you tell me the capital of {0}?",
        "Can you tell me the capital of {0}?",
        "Please tell me the capital of {0}.",
    ),
    "The capital of {0} is {1}.",
    (
        ("France", "Paris"),
        ("Spain", "Madrid"),
        ("Italy", "Rome"),
        ("Germany", "Berlin"),
        ("Japan", "Tokyo"),
        ("Egypt", "Cairo"),
        ("Norway", "Oslo"),
        ("Greece", "Athens"),
        ("Poland", "Warsaw"),
        ("Canada", "Ottawa"),
        ("Kenya", "Nairobi"),
        ("Peru", "Lima"),
        ("Cuba", "Havana"),
        ("Ireland", "Dublin"),
        ("Portugal", "Lisbon"),
        ("Austria", "Vienna"),
    ),
)

COLOURS = Topic(
    (
        "What colour is {0}?",
        "Which colour does {0} have?",
        "Tell me the colour of {0}.",
        "Do you know the colour of {0}?",
        "Could you tell me the colour of {0}?",
        "Can you tell me the colour of {0}?",
        "Please tell me the colour of {0}.",
    ),
    "The colour of {0} is {1}.",
    (
        ("grass", "green"),
        ("snow", "white"),
        ("coal", "black"),
        ("the sky", "blue"),
        ("a lemon", "yellow"),
        ("a tomato", "red"),
        ("a carrot", "orange"),
        ("an elephant", "grey"),
        ("chocolate", "brown"),
        ("a flamingo", "pink"),
    ),
)

OPPOSITES = Topic(
    (
        "What is the opposite of {0}?",
        "Which word is the opposite of {0}?",
        "Tell me the opposite of {0}.",
        "I need a word that means the opposite of {0}.",
        "Could you tell me the opposite of {0}?",
        "Can you tell me the opposite of {0}?",
        "Please tell me the opposite of {0}.",
    ),
    "The opposite of {0} is {1}.",
    (
        ("hot", "cold"),
        ("big", "small"),
        ("fast", "slow"),
        ("up", "down"),
        ("open", "closed"),
        ("light", "dark"),
        ("early", "late"),
        ("hard", "soft"),
        ("full", "empty"),
        ("wet", "dry"),
        ("loud", "quiet"),
        ("new", "old"),
        ("happy", "sad"),
        ("strong", "weak"),
    ),
)

UNITS = Topic(
    (
        "How many {1} are in {0}?",
        "How many {1} does {0} have?",
        "Tell me how many {1} there are in {0}.",
        "I want to know how many {1} make {0}.",
        "Could you tell me how many {1} are in {0}?",
        "Can you tell me how many {1} are in {0}?",
        "Please tell me how many {1} are in {0}.",
    ),
    "There are {2} {1} in {0}.",
    (
        ("a minute", "seconds", "sixty"),
        ("an hour", "minutes", "sixty"),
        ("a day", "hours", "twenty-four"),
        ("a week", "days", "seven"),
        ("a year", "months", "twelve"),
        ("a dozen", "pieces", "twelve"),
        ("a century", "years", "one hundred"),
        ("a kilometre", "metres", "one thousand"),
        ("a metre", "centimetres", "one hundred"),
        ("a byte", "bits", "eight"),
        ("a foot", "inches", "twelve"),
    ),
)

SIDES = Topic(
    (
        "How many sides does a {0} have?",
        "What is the number of sides of a {0}?",
        "Tell me how many sides a {0} has.",
        "I am drawing a {0}. How many sides do I need?",
        "Could you tell me how many sides a {0} has?",
        "Can you tell me how many sides a {0} has?",
        "Please tell me how many sides a {0} has.",
    ),
    "A {0} has {1} sides.",
    (("triangle", "three"), ("square", "four"), ("pentagon", "five"), ("hexagon", "six")),
)

DAYS = Topic(
    (
        "Which day comes after {0}?",
        "What day is it after {0}?",
        "Tell me the day after {0}.",
        "Today is {0}. What day is tomorrow?",
        "Could you tell me which day comes after {0}?",
        "Can you tell me which day comes after {0}?",
        "Please tell me which day comes after {0}.",
    ),
    "The day after {0} is {1}.",
    (
        ("Monday", "Tuesday"),
        ("Tuesday", "Wednesday"),
        ("Wednesday", "Thursday"),
        ("Thursday", "Friday"),
        ("Friday", "Saturday"),
        ("Saturday", "Sunday"),
        ("Sunday", "Monday"),
    ),
)

YOUNG = Topic(
    (
        "What is a young {0} called?",
        "What do you call a young {0}?",
        "Tell me the word for a young {0}.",
        "Which word means a young {0}?",
        "Could you tell me what a young {0} is called?",
        "Can you tell me what a young {0} is called?",
        "Please tell me what a young {0} is called.",
    ),
    "A young {0} is called a {1}.",
    (
        ("dog", "puppy"),
        ("cat", "kitten"),
        ("cow", "calf"),
        ("sheep", "lamb"),
        ("horse", "foal"),
        ("duck", "duckling"),
        ("goat", "kid"),
        ("bear", "cub"),
    ),
)

TOOLS = Topic(
    (
        "What is a {0} used for?",
        "What do people use a {0} for?",
        "Tell me what a {0} is for.",
        "Why would I need a {0}?",
        "Could you tell me what a {0} is used for?",
        "Can you tell me what a {0} is used for?",
        "Please tell me what a {0} is used for.",
    ),
    "A {0} is used to {1}.",
    (
        ("hammer", "drive nails into wood"),
        ("saw", "cut wood"),
        ("needle", "sew cloth"),
        ("kettle", "boil water"),
        ("broom", "sweep the floor"),
        ("ladder", "reach high places"),
        ("thermometer", "measure temperature"),
        ("compass", "find north"),
        ("calendar", "keep track of dates"),
        ("torch", "give light in the dark"),
    ),
)

WORKERS = Topic(
    (
        "What does a {0} do?",
        "What is the work of a {0}?",
        "Tell me what a {0} does.",
        "My friend is a {0}. What is that job?",
        "Could you tell me what a {0} does?",
        "Can you tell me what a {0} does?",
        "Please tell me what a {0} does.",
    ),
    "A {0} {1}.",
    (
        ("baker", "makes bread and cakes"),
        ("teacher", "helps pupils to learn"),
        ("doctor", "treats people who are ill"),
        ("farmer", "grows crops and keeps animals"),
        ("pilot", "flies aeroplanes"),
        ("tailor", "makes and mends clothes"),
        ("librarian", "looks after books and lends them"),
        ("plumber", "repairs water pipes"),
        ("gardener", "takes care of plants"),
    ),
)

MATERIALS = Topic(
    (
        "What is {0} made of?",
        "What do you need to make {0}?",
        "Tell me what {0} is made of.",
        "Which things go into {0}?",
        "Could you tell me what {0} is made of?",
        "Can you tell me what {0} is made of?",
        "Please tell me what {0} is made of.",
    ),
    "It takes {1} to make {0}.",
    (
        ("bread", "flour, water and yeast"),
        ("paper", "wood and water"),
        ("glass", "sand and heat"),
        ("cheese", "milk and salt"),
        ("jam", "fruit and sugar"),
        ("an omelette", "eggs and butter"),
        ("concrete", "cement, sand and water"),
    ),
)

THANKS = Topic(
    (
        "How do you say thank you in {0}?",
        "What is thank you in {0}?",
        "Tell me the {0} word for thank you.",
        "I am visiting friends who speak {0}. How do I thank them?",
        "Could you tell me how to say thank you in {0}?",
        "Can you tell me how to say thank you in {0}?",
        "Please tell me how to say thank you in {0}.",
    ),
    "In {0} you say {1}.",
    (
        ("French", "merci"),
        ("German", "danke"),
        ("Spanish", "gracias"),
        ("Italian", "grazie"),
        ("Dutch", "dank je"),
        ("Swedish", "tack"),
    ),
)

PROCEDURES = Topic(
    (
        "How do I {0}?",
        "What should I do to {0}?",
        "Tell me how to {0}.",
        "I want to {0}. Where do I start?",
        "Could you tell me how to {0}?",
        "Can you tell me how to {0}?",
        "Please tell me how to {0}.",
    ),
    "{1}",
    (
        ("make tea", "Boil water, pour it over the tea leaves and wait three minutes."),
        ("boil an egg", "Put the egg into boiling water for eight minutes, then cool it."),
        ("wash my hands", "Use soap and warm water, and rub for twenty seconds."),
        ("plant a seed", "Put the seed into moist soil, cover it and keep it warm."),
        ("send a letter", "Write the address on the envelope, add a stamp and post it."),
        ("cook rice", "Simmer one cup of rice in two cups of water until it is soft."),
        ("clean a window", "Wipe the glass with soapy water and dry it with a cloth."),
        ("cross a road", "Stop at the kerb, look both ways and walk when it is clear."),
        ("stay healthy", "Eat well, sleep enough and move every day."),
        ("learn a language", "Practise a little every day and speak with other people."),
    ),
)

SHOP = Topic(
    (
        "{0}",
        "Hello. {0}",
        "I have a question about your shop. {0}",
        "Good morning. {0}",
        "Hi. {0}",
        "Excuse me. {0}",
        "Hi, one question. {0}",
    ),
    "{1}",
    (
        ("When are you open?", "We are open from nine to six, Monday to Saturday."),
        ("Can I return a lamp?", "Yes, you can return it within thirty days with the receipt."),
        ("How long is the warranty?", "All our lamps have a warranty of two years."),
        ("How much is shipping?", "Shipping is free for orders above fifty euros."),
        ("How long does delivery take?", "Delivery takes three to five working days."),
        ("My lamp is broken. What now?", "I am sorry to hear that. Please send us a photo and we will replace it."),
        ("Where is my order?", "Please give me your order number and I will look it up."),
        ("How can I pay?", "You can pay by card, by bank transfer or in cash."),
        ("Do you repair lamps?", "Yes, we repair every lamp that we sell."),
        ("Can I cancel my order?", "Yes, you can cancel it until it has been shipped."),
    ),
)

MANNERS = Topic(
    (
        "{0}",
        "Hello there. {0}",
        "Quick question. {0}",
        "I have a small question. {0}",
        "Hi there. {0}",
        "Hello again. {0}",
        "Just one thing. {0}",
    ),
    "{1}",
    (
        ("Who are you?", "I am a small assistant that answers simple questions."),
        ("What can you do?", "I can answer simple questions about many everyday things."),
        ("How are you today?", "I am well, thank you. How can I help you?"),
        ("Can you help me?", "Of course. What would you like to know?"),
        ("Thank you very much!", "You are welcome. Is there anything else?"),
        ("Good night!", "Good night, and sleep well."),
        ("Do you ever sleep?", "No, I am a program and I never need to sleep."),
    ),
)

PLANETS = Topic(
    (
        "Which planet is number {0} from the sun?",
        "What is planet number {0} from the sun?",
        "Tell me planet number {0} from the sun.",
        "Counting from the sun, which planet is number {0}?",
        "Could you tell me which planet is number {0} from the sun?",
        "Can you tell me which planet is number {0} from the sun?",
        "Please tell me which planet is number {0} from the sun.",
    ),
    "Planet number {0} from the sun is {1}.",
    (
        ("one", "Mercury"),
        ("two", "Venus"),
        ("three", "the Earth"),
        ("four", "Mars"),
        ("five", "Jupiter"),
        ("six", "Saturn"),
        ("seven", "Uranus"),
        ("eight", "Neptune"),
    ),
)

TOPICS = (
    CAPITALS,
    COLOURS,
    OPPOSITES,
    UNITS,
    SIDES,
    DAYS,
    YOUNG,
    TOOLS,
    WORKERS,
    MATERIALS,
    THANKS,
    PROCEDURES,
    SHOP,
    MANNERS,
    PLANETS,
)
