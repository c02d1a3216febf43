"""What callers are likely to say: generic phrases, and questions made from the knowledge base's own sentences.

The recogniser's language model is trained on these. Nothing here has to be good English; it has to put likely word
sequences next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kb.spoken import spoken_words

Utterance = tuple[tuple[str, ...], float]

# No two ways to write what sounds the same ("goodbye", "good bye"): the recogniser's confidence would be shared out.
CALL_PHRASES = """
hello | hi | hi there | hey | good morning | good afternoon | good evening | hello can you help me
hello can you hear me
hi i have a question | hello i have a question | i have a question | i have another question | one more question
can i ask you something | can i ask a question | could you help me | can you help me please | i need some help
yes | yes please | yeah | yep | yes that is right | sure | of course | okay | all right | right | exactly
no | no thanks | no thank you | nope | not really | no that's all | no that is all | no that was all | no that's it
that's all | that is all | that's all thank you | that's it | that is everything | nothing else | that's all i needed
thank you | thanks | thanks a lot | thank you very much | thank you so much | great thank you | okay thank you
okay thanks | perfect thank you | thanks for your help | thank you for your help | great | perfect | good | fine
goodbye | bye | bye bye | okay bye | thank you goodbye | thanks bye | thank you bye | have a nice day
okay goodbye | see you | see you later | have a good day | talk to you later | i will call again
please repeat that | could you repeat that | can you repeat that please | can you say that again | say that again
could you say that again please | sorry i did not get that | sorry | excuse me | pardon | what did you say
what was that
i don't understand | i did not understand | i did not hear you | can you speak slower | slower please | louder please
wait | wait a minute | wait a second | hold on | hold on please | one moment | just a moment | one second | stop
stop please | okay stop | never mind | forget it | mhm | uh huh | hm | uh | um | i see | got it
can i speak to a person | i want to speak to a person | can i talk to someone | i would like to speak to someone
can i speak to the manager | can i talk to a human | a real person please | connect me with a person | operator
are you a robot | are you a machine | are you a real person | who are you | what is your name | who am i speaking to
what can you do | what can you help me with | are you there | are you still there | can you hear me
i am calling about my order | i am calling to ask a question | i have a problem | i have a different question
actually i have another question | wait i have another question | and what about that | what else | what do you mean
""".replace("\n", " | ")

# {} is a run of content words of the knowledge base.
TEMPLATES = """
{} | the {} | a {} | about {} | what about {} | what about the {} | how about {} | and {} | tell me about {}
tell me about the {} | tell me about your {} | tell me more about {} | i want to know about {}
i have a question about {}
i would like to know about {} | i have a question about the {} | i am calling about {} | i am calling about the {}
do you have {} | do you have a {} | do you have any {} | do you sell {} | do you offer {}
do you offer a {} | do you {}
do you also {} | do you take {} | do you accept {} | do you do {} | do you give {} | do you {} things | can you {}
can you {} my {} | could you {} | will you {} | are you {} | are you open {} | are you {} today
can i {} | can i {} it | can i {} a {} | can i get a {} | can i get {} | can i have a {} | can i buy a {} | can i buy {}
can i book a {} | can i use a {} | can i pay with {} | can i pay by {} | can i bring {} | can i bring my {} | could i {}
is it possible to {} | is {} possible | am i able to {} | may i {} | i want to {} | i want a {} | i would like to {}
i would like a {} | i need a {} | i need to {} | i'd like to {} | i'd like a {} | i am looking for a {} | i have a {}
how do i {} | how do i {} a {} | how can i {} | how does {} work | how does the {} work | how do you {} | how many {}
how much is {} | how much is a {} | how much is the {} | how much are {} | how much does {} cost
how much does a {} cost
how much does the {} cost | how much do {} cost | how much do you charge for {} | how much do you charge for a {}
how much is it to {} | how much is it to {} a {} | how much would a {} cost | how much do i pay for {}
how much for a {}
what does {} cost | what does a {} cost | what does the {} cost | what do {} cost | what is the price of a {}
what is the price of {} | what is the price for a {} | what are the prices for {} | what are your prices for {}
how long does {} take | how long does a {} take | how long does the {} take | how long do {} take | how long is the {}
how long do i have to {} | how long until {} | how fast is {} | how soon is {} | how long does it take to {}
how long will {} take | how long will the {} take | how quickly do you {} | how old must {} be | how far do you {}
when is the {} | when is {} | when are {} | when do you {} | when do {} | when does the {} | when can i {}
when will {}
when does {} start | when do {} start | what time is {} | what time is the {} | what time do you {}
what time does {} start
what time do you open | what time do you close | when do you open | when do you close | when are you open
what time do you open on {} | what time do you close on {} | are you open on {} | when do you open on {}
are you closed on {} | are you open today | are you open tomorrow | are you open now | what are your hours
what are your opening hours | what are your hours on {} | what are the hours | until when are you open
where is {} | where is the {} | where is your {} | where are {} | where can i {} | where are you | where are you located
where do you {} | where do i {} | where can i find {} | where can i park | what is your address | what is the address
what is {} | what is a {} | what is the {} | what is your {} | what are {} | what are the {}
what are your {} | what {}
what {} do you have | what kind of {} do you have | what {} do you accept | what {} do i need | which {} do you have
what do i need for {} | what do i need to {} | what do i need for a {} | what do i need | what does the {} cover
who is {} | who is the {} | who is your {} | which {} | why {}
is {} free | is the {} free | are {} free | is there a {} | is there {} | are there {} | are there any {}
is there any {}
is {} included | is the {} included | are {} included | is a {} included | do {} expire | does the {}
does a {} | does {}
is {} covered | is the {} covered | are {} covered | is my {} covered | is the {} covered by the {} | what is covered
do i need {} | do i need a {} | do i need an {} | do i need to {} | do i have to {} | do i have to {} a {} | must i {}
does the {} cover {} | does the {} cost | does a {} come with a {} | do {} come with a {} | is my {} | my {} is broken
can i return {} | can i return a {} | can you repair {} | can you fix my {} | do you repair {} | can i cancel my {}
i bought a {} | i bought {} | i have bought {} | can i send you {} | can i send {} | how many {} does it take
how do i get there | how do i get there by {} | how do i get to the {} | how far is it | is there {} at the {}
is there a {} for {} | i am a {} | do i get a {} | do i get {} | can you fix it | can you help me with my {}
my {} does not work | my {} has a {} | what is the {} for a {} | what is the {} for {} | when is the next {}
how can i join the {} | until what time are you open | until what time are you open on {} | on {} | by {} | in {}
what are your {} | do you have a {} for {} | how fast do i get {} | when do i get {} | do i have to make an {}
what happens if i {} | what if i {} | for {} | with {} | please tell me about {} | please tell me {}
""".replace("\n", " | ")

# What callers ask any company about, whether or not the knowledge base says it: heard right, a question that has no
# answer is told so, and one that has an answer under another word is still found by meaning.
COMPANY_TOPICS = """
monday | tuesday | wednesday | thursday | friday | saturday | sunday | weekdays | weekends | the weekend | holidays
today | tomorrow | tonight | this week | next week | the morning | the afternoon | the evening | noon | hours | days
weeks | months | opening hours | address | location | directions | parking | parking lot | bus | train | phone number
phone | email | email address | website | manager | owner | price | prices | price list | cost | costs | fee | fees
discount | discounts | coupon | sale | offer | offers | payment | payments | credit card | credit cards | card | cash
check | invoice | bill | receipt | deposit | money | my money back | refund | refunds | return | returns | exchange
order | orders | my order | delivery | shipping | pick up | warranty | guarantee | repair | repairs | service | services
appointment | appointments | reservation | booking | account | membership | member | gift card | gift cards | gift
insurance | contract | product | products | brand | brands | size | sizes | color | colors | store | shop | office
staff | jobs | student | students | children | kids | family | seniors | beginners | something | anything
something i bought | something new | my car | my bike | my bicycle
"""

# What every company is asked about every day of the week: the days sound much like other words at the end of a
# sentence ("on Monday" like "on body"), and what is asked for is nearly always the day.
DAY_QUESTIONS = """
what time do you open on {} | what time do you close on {} | when do you open on {} | when do you close on {}
are you open on {} | are you closed on {} | what about {} | and on {} | on {}
""".replace("\n", " | ")
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()

# Everyday words the knowledge base may lack. They are here to be mistaken for nothing else: without them a question
# about football is heard as the nearest words of the company, with them as words that retrieve nothing.
EVERYDAY_WORDS = """
account air airport animal apartment apple baby bank bathroom beach bedroom beer birthday board body book box bread
breakfast brother building business cake camera capital cat chair chicken children church city class coffee college
computer concert cook country cousin cup dance daughter dentist dinner doctor dog dress drink education egg email
engine family farm father fire fish flight flower food football friend fruit game garden gas girl government grandmother
ground hair hand head health history holiday home horse hospital hotel house husband idea insurance internet island job
joke juice key kitchen knee lake language law lawyer letter library life line lunch machine market meat medicine meeting
message milk minister money month moon mother mountain movie music name news newspaper night number nurse office oil
paper parents party passport password people phone photo picture pizza plane plant police pool president program queen
radio recipe rice river room salad school science sea sister sleep snow soccer song soup state stock story student
sugar suit summer table tax taxi tea teacher team telephone television temperature theater ticket tomorrow tonight tooth
town toy train travel tree trip truck uncle university vacation vegetables video water weather website wedding weekend
wife wind window wine winter woman work world writer yesterday young
"""
EVERYDAY_TEMPLATES = "{} | the {} | a {} | my {} | some {} | is the {} | of the {} | about {} | in the {}"

# Weights of the kinds of utterances, tuned on the sample knowledge base.
SENTENCE_WEIGHT, HEADING_WEIGHT, QUESTION_WEIGHT, PHRASE_WEIGHT = 2.0, 4.0, 4.0, 6.0
TEMPLATE_WEIGHT, EVERYDAY_WEIGHT, DAY_WEIGHT = 0.05, 2.0, 3.0

_FUNCTION_WORDS = frozenset(
    """
    a an the and or but of to in on at by for from with without within into over under than then when while that this
    these those it its they them their he she his her we us our ours you your yours i me my is are was were be
    been being
    am do does did have has had can cannot could will would shall should may might must not no so as if until since
    there here also every each any all some such more most only never one's o'clock a.m. p.m. please
    """.split()
)
SPOKEN_DIGITS = "zero oh one two three four five six seven eight nine double".split()
NUMBER_LEADS = ("my number is", "my order number is", "the number is", "it is", "it's", "order number", "number")
NUMBER_WEIGHT = 3.0
_NUMBER_WORDS = frozenset(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million point dot
    """.split()
)
_SWAPS = {
    "we": "you", "our": "your", "ours": "yours", "us": "you", "you": "i", "your": "my", "yours": "mine",
    "we're": "you're", "we'll": "you'll",
}  # fmt: skip
_MODALS = frozenset("can could will would should may might must are were do".split())
_TOPIC_WORDS = 2


def likely_utterances(
    sentences: Sequence[str], headings: Sequence[str], known: Callable[[str], bool]
) -> Iterator[Utterance]:
    """Word sequences with weights to train the language model on; ``known`` says what the dictionary lists."""
    spoken = [tuple(spoken_words(sentence)) for sentence in sentences]
    titles = [tuple(spoken_words(heading)) for heading in headings]
    yield from _weighted(spoken, SENTENCE_WEIGHT)
    yield from _weighted(titles, HEADING_WEIGHT)
    yield from _weighted((question for words in spoken for question in questions_of(words)), QUESTION_WEIGHT)
    yield from _weighted((tuple(phrase.split()) for phrase in _split(CALL_PHRASES)), PHRASE_WEIGHT)
    topics = dict.fromkeys(topic for words in [*titles, *spoken] for topic in topics_of(words))
    topics.update(dict.fromkeys(tuple(topic.split()) for topic in _split(COMPANY_TOPICS)))
    topics.update(dict.fromkeys((form,) for topic in topics if len(topic) == 1 for form in forms_of(topic[0], known)))
    yield from _weighted(_filled(_split(TEMPLATES), list(topics)), TEMPLATE_WEIGHT)
    yield from _weighted(_filled(_split(DAY_QUESTIONS), [(day,) for day in DAYS]), DAY_WEIGHT)
    everyday = [(word,) for word in EVERYDAY_WORDS.split()]
    yield from _weighted(_filled(_split(EVERYDAY_TEMPLATES), everyday), EVERYDAY_WEIGHT)
    yield from _weighted(_numbers(), NUMBER_WEIGHT)


def _numbers() -> Iterator[tuple[str, ...]]:
    """Numbers as callers say them, digit by digit: any digit after any other, and behind what announces a number."""
    for first in SPOKEN_DIGITS:
        for announced in NUMBER_LEADS:
            yield (*announced.split(), first)
        for second in SPOKEN_DIGITS:
            yield (first, second, first)


def _weighted(utterances: Iterable[tuple[str, ...]], weight: float) -> Iterator[Utterance]:
    return ((words, weight) for words in utterances if words)


def _split(table: str) -> list[str]:
    return [entry.strip() for entry in table.split("|") if entry.strip()]


def forms_of(word: str, known: Callable[[str], bool]) -> Iterator[str]:
    """Other forms of a word that are in the dictionary: callers ask for "a discount" where the text has "discounts"."""
    forms = {word + "s", word + "ing", word.removesuffix("e") + "ing", word + word[-1] + "ing"}
    for ending, instead in (("s", ""), ("es", ""), ("ies", "y"), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            forms.add(word.removesuffix(ending) + instead)
    return (form for form in sorted(forms - {word}) if known(form))


def _filled(templates: Sequence[str], topics: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Every template with every topic; a second blank takes the next topic."""
    for template in templates:
        words = template.split()
        if "{}" not in words:
            yield tuple(words)
            continue
        for number, topic in enumerate(topics):
            fillers = iter((topic, topics[(number + 1) % len(topics)]))
            yield tuple(part for word in words for part in (next(fillers) if word == "{}" else (word,)))


def topics_of(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Runs of one or two content words."""
    run: list[str] = []
    for word in (*words, "the"):
        if word not in _FUNCTION_WORDS and word not in _NUMBER_WORDS:
            run.append(word)
            continue
        for length in range(1, _TOPIC_WORDS + 1):
            for start in range(len(run) - length + 1):
                yield tuple(run[start : start + length])
        run = []


def questions_of(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Questions that a statement answers, from the caller's side ("we deliver ..." -> "do you deliver ...")."""
    told = [_SWAPS.get(word, word) for word in words]
    yield tuple(told)
    if len(words) < 3:
        return
    if words[0] in ("we", "you"):
        yield from _about_people(told)
    for position, word in enumerate(words[1:8], start=1):
        if word in ("is", "are", "can", "cannot", "must"):
            yield from _about_things(told[:position], "can" if word == "cannot" else word, told[position + 1 :])
            break
    else:
        yield from _about_doing(told)


def _about_people(told: Sequence[str]) -> Iterator[tuple[str, ...]]:
    who, verb, rest = told[0], told[1], [word for word in told[2:] if word not in ("not", "also", "only")]
    if verb == "am":
        verb = "are"
    if verb in _MODALS:
        yield (verb, who, *rest)
        for ask in ("when", "where", "how", "why"):
            yield (ask, verb, who, *rest)
        if verb != "are":
            yield ("i", "want", "to", *rest)
            yield ("is", "it", "possible", "to", *rest)
        return
    yield ("do", who, verb, *rest)
    for ask in ("when", "where", "how", "what", "how much", "how long"):
        yield (*ask.split(), "do", who, verb, *rest)


def _about_things(subject: Sequence[str], verb: str, rest: Sequence[str]) -> Iterator[tuple[str, ...]]:
    rest = [word for word in rest if word not in ("not", "also", "only")]
    yield (verb, *subject, *rest)
    for ask in ("what", "when", "where", "how much", "how long", "who"):
        yield (*ask.split(), verb, *subject)
        yield (*ask.split(), verb, *subject, *rest)


def _about_doing(told: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Turns "the club costs ..." into "how much does the club cost": a verb with -s after a short subject."""
    for position in range(1, min(len(told), 7)):
        verb = told[position]
        if (
            len(verb) > 3
            and verb.endswith("s")
            and not verb.endswith("ss")
            and told[position - 1] not in _FUNCTION_WORDS
        ):
            plain = verb[:-2] if verb.endswith(("shes", "ches", "sses")) else verb[:-1]
            for ask in ("does", "how much does", "how long does", "when does", "what does", "where does"):
                yield (*ask.split(), *told[:position], plain)
                yield (*ask.split(), *told[:position], plain, *told[position + 1 :])
