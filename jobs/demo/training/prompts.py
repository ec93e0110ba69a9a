"""The prompts that describe scenes, and a tokenizer for such prompts.

Training prompts and those for judging have different words and
sentences, so that judging shows whether the model understood or learned by heart.
"""

import json
import random
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.demo.training.axes import ALL_SCENES, AXES, CAMERAS, LIGHTS, Scene
from lynx_model.parameters import DEFAULT_NEGATIVE_PROMPT
from lynx_model.tokenizer import Tokenizer, clean_text

REFERENCE_PROMPT = "image of a face"
NUM_COLUMNS = 80
"""Token positions of a prompt; the longest training prompt is shorter."""
NUM_SPECIAL_COLUMNS = 128
MAX_PIECES = 1100


Phrases = dict[str, str]
"""Phrases by value, separated by "|"."""


class Language(NamedTuple):
    """Phrases for each axis, the subjects that can act, and sentences to put them in.

    A sentence has the fields who, does and where. `details` joins camera and light to it.
    """

    motions: Phrases
    places: Phrases
    cameras: Phrases
    lights: Phrases
    subjects: str
    sentences: str
    separators: str
    ends: str


ENGLISH = Language(
    motions={
        "still": "looks into the camera|looks straight at the viewer|holds still and looks at the camera|faces the camera"
        "|stays still|stands still|keeps quite still|does not move|gazes calmly into the camera|poses motionless",
        "left": "turns the head to the left|slowly turns left|looks to the left|turns to the left|turns the face to the left"
        "|looks left|glances to the left|slowly turns the head left",
        "right": "turns the head to the right|slowly turns right|looks to the right|turns to the right"
        "|turns the face to the right|looks right|glances to the right|slowly turns the head right",
        "nod": "nods gently|gives a small nod|nods the head|nods|nods slowly|nods in agreement|is nodding|moves the head up and down",
        "approach": "walks toward the camera|comes closer|steps forward|walks towards the camera|comes nearer"
        "|approaches the camera|moves toward the viewer|walks up to the camera",
        "recede": "steps back|moves away from the camera|slowly backs away|walks backwards|moves back|steps away from the camera"
        "|retreats|backs away from the viewer",
    },
    places={
        "beach": "on a beach at sunset|by the sea at sunset|on the seashore in the evening|on a sandy beach|at the beach"
        "|by the ocean at sunset|on the beach in front of the sea|on the coast at sunset",
        "forest": "in a green forest|among the trees of a forest|in the woods|in a forest|between tall trees|among green trees"
        "|in a deep forest|in the green woods",
        "mountains": "in front of snowy mountains|before snow-covered peaks|in the snowy mountains|in the mountains"
        "|in front of mountains with snow|before high mountains|in a snowy landscape|high in the mountains",
        "city": "in a city at night|in front of city lights at night|on a city street at night|in the city at night"
        "|downtown at night|in front of a skyline at night|on a street at night|among skyscrapers at night",
        "studio": "in a grey studio|in front of a plain grey wall|in a photo studio|in a studio|before a grey background"
        "|in front of a grey backdrop|in a gray studio|in front of a simple wall",
        "stage": "on a stage before a red curtain|in front of a red curtain|in a theatre with a red curtain|on a stage"
        "|in a theatre|before red curtains|on a theater stage|in front of a red stage curtain",
        "sky": "under a blue sky|in front of a blue sky with clouds|outdoors under a bright blue sky|before a cloudy blue sky"
        "|under white clouds|in front of the sky|with a blue sky in the background|outside under the sky",
        "library": "in a library|in front of bookshelves|in a library with many books|before shelves full of books"
        "|among bookshelves|in an old library|in front of a bookcase|in a room full of books",
    },
    cameras={
        "static": "the camera stays still|static shot|fixed camera|static camera|the camera does not move|locked camera|tripod shot|",
        "zoom in": "the camera slowly zooms in|slow zoom in|slow push-in|the camera zooms in|zoom in|push in"
        "|the camera pushes in|zooming in",
        "zoom out": "the camera slowly zooms out|slow zoom out|slow pull-back|the camera zooms out|zoom out|pull back"
        "|the camera pulls back|zooming out",
        "pan left": "the camera pans left|slow pan to the left|the camera pans to the left|pan left|the camera slowly pans left"
        "|panning left|the camera moves to the left|slow left pan",
        "pan right": "the camera pans right|slow pan to the right|the camera pans to the right|pan right"
        "|the camera slowly pans right|panning right|the camera moves to the right|slow right pan",
    },
    lights={
        "neutral": "soft light|natural light|daylight|neutral light|even lighting|soft natural lighting||",
        "warm": "warm light|golden light|warm golden light|warm lighting|golden hour|warm orange light|warm tones|golden glow",
        "cool": "cool light|cold bluish light|cool blue light|cold light|cool lighting|cold blue tones|blue light|cool tones",
        "dim": "dim light|dark and moody light|low light|dim lighting|dark scene|moody lighting|low-key lighting|in the dark",
    },
    subjects="A person|A person|A woman|A man|Someone|The person|A young woman|A young man|An old man|An elderly woman"
    "|Portrait of a person who|Close-up of a person who|Portrait of a woman who|Portrait of a man who|Video of a person who",
    sentences="{who} {does} {where}|{who} {does} {where}|{Where}, {who} {does}|{who}, {where}, {does}|{who} {where} {does}",
    separators=", |, |, |; |. ",
    ends=".|.|",
)

CHINESE = Language(
    motions={
        "still": "静静地看着镜头|望向镜头|看着镜头|面对镜头|一动不动|保持不动|安静地注视着镜头|站着不动",
        "left": "慢慢把头转向左边|向左转头|把头转向左边|转向左边|看向左边|向左看|慢慢向左转头|把脸转向左侧",
        "right": "慢慢把头转向右边|向右转头|把头转向右边|转向右边|看向右边|向右看|慢慢向右转头|把脸转向右侧",
        "nod": "轻轻点头|微微点了点头|点头|点了点头|慢慢点头|点头同意|轻轻地点了点头|不停地点头",
        "approach": "朝镜头走来|慢慢走近镜头|走近镜头|向前走来|向镜头走来|走向镜头|越走越近|靠近镜头",
        "recede": "慢慢后退|向后退去|后退|往后退|退后几步|远离镜头|向后走|慢慢远去",
    },
    places={
        "beach": "在日落的海滩上|在傍晚的海边|在海滩上|在海边|在沙滩上|在日落时的大海前|夕阳下的海边|在黄昏的沙滩上",
        "forest": "在绿色的森林里|在树林中|在森林里|在树林里|在绿树之间|在大树之间|在茂密的森林中|在森林中",
        "mountains": "在雪山前|在白雪覆盖的群山前|在雪山中|在高山前|在山里|在雪地里的高山前|在白色的雪山下|在群山之间",
        "city": "在夜晚的城市里|在城市夜景的灯光前|在夜晚的街道上|在城市的夜里|在夜景前|在高楼之间的夜晚街头|在城市的灯光下|在夜色中的城市里",
        "studio": "在灰色的摄影棚里|在灰色的墙前|在摄影棚里|在灰色背景前|在影棚里|在一面灰墙前|在简单的灰色背景前|在照相馆里",
        "stage": "在红色幕布前|在舞台的红色幕布前|在舞台上|在剧院里|在剧场的舞台上|在红色的幕布前|在红幕前|站在舞台上的红幕前",
        "sky": "在蓝天下|在蓝天白云下|在蓝色的天空下|在天空前|在晴朗的天空下|在白云下|在户外的蓝天下|在蓝天前",
        "library": "在图书馆里|在书架前|在图书馆的书架前|在满是书的房间里|在书房里|在许多书的前面|在旧图书馆里|在一排排书架前",
    },
    cameras={
        "static": "镜头静止|固定镜头|镜头不动|静止镜头|镜头保持不动|",
        "zoom in": "镜头缓缓推近|镜头慢慢放大|镜头推近|镜头拉近|推镜头|画面慢慢放大",
        "zoom out": "镜头缓缓拉远|镜头慢慢缩小|镜头拉远|镜头后拉|拉镜头|画面慢慢缩小",
        "pan left": "镜头向左摇|镜头缓缓左移|镜头向左移动|镜头左摇|镜头慢慢向左平移|画面向左移动",
        "pan right": "镜头向右摇|镜头缓缓右移|镜头向右移动|镜头右摇|镜头慢慢向右平移|画面向右移动",
    },
    lights={
        "neutral": "柔和的光线|自然光|自然的光线|柔光|",
        "warm": "温暖的光线|金色的光线|暖光|暖色的光线|金色的阳光|暖色调",
        "cool": "冷色的光线|清冷的蓝光|冷光|蓝色的光线|冷色调|寒冷的光",
        "dim": "昏暗的光线|光线暗淡|昏暗|光线很暗|暗光|在黑暗中",
    },
    subjects="一个人|一个人|一位女士|一位男士|有人|她|他|一个女人|一个男人|一位老人|一位年轻人",
    sentences="{where}，{who}{does}|{who}{where}{does}|{who}{where}，{does}|{who}{does}，{where}",
    separators="，",
    ends="。|。|",
)

UNSEEN_ENGLISH = Language(
    motions={
        "still": "is quite still and looks at us|rests without moving",
        "left": "has the face turn to the left side|moves the head left",
        "right": "has the face turn to the right side|moves the head right",
        "nod": "makes a nod|says yes with a nod",
        "approach": "is coming toward us|walks nearer to the viewer",
        "recede": "is moving away from us|walks back, away from the viewer",
    },
    places={
        "beach": "near the waves of the sea, at sunset|where the sand of the beach meets the ocean",
        "forest": "with many green trees behind|deep in the woods, by the trees",
        "mountains": "with snow and mountains behind|near peaks with snow",
        "city": "with the lights of the city behind, at night|in a street with lights at night",
        "studio": "with a grey wall behind|for a studio portrait on grey",
        "stage": "with a red curtain behind|in the theatre, on stage",
        "sky": "with the blue sky and clouds behind|below the clouds of a blue sky",
        "library": "with many books behind|near the shelves of a library",
    },
    cameras={
        "static": "the camera is fixed|the shot is static",
        "zoom in": "the shot zooms in|the view slowly pushes in",
        "zoom out": "the shot zooms out|the view slowly pulls back",
        "pan left": "the shot pans to the left|the view pans left",
        "pan right": "the shot pans to the right|the view pans right",
    },
    lights={
        "neutral": "the light is soft and natural|in soft daylight",
        "warm": "the light is warm and golden|in a warm glow",
        "cool": "the light is cool and blue|in cold blue light",
        "dim": "the light is dim and low|in a dark, moody light",
    },
    subjects="A lady|A guy|One person|This person|A friend",
    sentences="We see how {who} {does} {where}|{who} {does}, {where}|There is a video in which {who} {does} {where}",
    separators=", and |. ",
    ends=".|",
)

UNSEEN_CHINESE = Language(
    motions={
        "still": "静静站着|安静地面对着我们",
        "left": "的头向左边转|往左边看去",
        "right": "的头向右边转|往右边看去",
        "nod": "在点头|微微地点头",
        "approach": "慢慢地走近|向我们走来",
        "recede": "慢慢地向后退|退向远处",
    },
    places={
        "beach": "在大海的沙滩边|在日落的大海边",
        "forest": "在绿色的树林中间|在森林的大树前",
        "mountains": "在白色的雪山上|在有雪的高山下",
        "city": "在城市夜晚的灯光里|在夜里的城市街道",
        "studio": "在灰色的墙边|在灰色的影棚中",
        "stage": "在剧院的红色幕布下|在红色的舞台上",
        "sky": "在白云和蓝天前|在蓝色天空的云下",
        "library": "在有许多书的图书馆|在书架中间",
    },
    cameras={
        "static": "镜头一直不动|画面静止",
        "zoom in": "镜头慢慢靠近|画面慢慢推近",
        "zoom out": "镜头慢慢远去|画面慢慢拉远",
        "pan left": "镜头慢慢左移|镜头往左摇",
        "pan right": "镜头慢慢右移|镜头往右摇",
    },
    lights={
        "neutral": "光线自然柔和|自然的柔光",
        "warm": "光线温暖|温暖的金色阳光",
        "cool": "光线清冷|蓝色的冷光",
        "dim": "光线昏暗|很暗的光",
    },
    subjects="这个人|那位女士|那个男人",
    sentences="{where}，{who}{does}|我们看到{who}{where}{does}",
    separators="，",
    ends="。|",
)


def write_prompt(scene: Scene, rng: random.Random, *, chinese: bool) -> str:
    """One of the many prompts that describe a scene in training. Static cameras and neutral light are often not mentioned."""
    return _write(scene, rng, CHINESE if chinese else ENGLISH, silent_share=0.45)


def write_unseen_prompt(scene: Scene, rng: random.Random, *, chinese: bool) -> str:
    """A prompt for judging: none of its phrases occurs in training, all of its words do."""
    return _write(scene, rng, UNSEEN_CHINESE if chinese else UNSEEN_ENGLISH, silent_share=0.0)


def _write(scene: Scene, rng: random.Random, language: Language, *, silent_share: float) -> str:
    motion, place, camera, light = (
        rng.choice(phrases[axis[number]].split("|"))
        for axis, number, phrases in zip(AXES, scene, language[:4], strict=True)
    )
    who = rng.choice(language.subjects.split("|"))
    sentences = language.sentences.split("|")
    if who.endswith("who"):  # its verb must follow
        sentences = [sentence for sentence in sentences if "{who} {does}" in sentence]
    sentence = rng.choice(sentences)
    if not sentence.startswith("{who}"):
        who = who[0].lower() + who[1:]
    text = sentence.format(who=who, does=motion, where=place, Where=_capitalised(place))
    is_silent = (
        CAMERAS[scene.camera] == "static" and rng.random() < silent_share,
        LIGHTS[scene.light] == "neutral" and rng.random() < silent_share,
    )
    details = [detail for detail, silent in zip((camera, light), is_silent, strict=True) if detail and not silent]
    rng.shuffle(details)
    separator = rng.choice(language.separators.split("|"))
    if separator == ". ":
        details = [_capitalised(detail) for detail in details]
    return separator.join([text, *details]) + rng.choice(language.ends.split("|"))


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


COMMON_WORDS = """
a about above across after again all along also although always an and another any anything are around art as at away back background
backwards balcony bar be beard beautiful because bed before behind below beneath beside between big bird black blonde blue blurry boat
book bottle boy bridge bright brown building bus but button by cafe candle cap car careful casually cat chair cheerful cheeks child
children cinematic classic classroom clear clearly clip close closes closely clothes cloudy coat coffee colour color colorful confident
corner countryside couple cream crowd cup curly curtain cute daily dance dances dancing dark day deep depth desert desk detailed
detail details different dog door down dramatic dress drink drinks drives dry dusk early earrings eat eats elegant emotional empty
evening every excited expression eye eyes eyebrows face faces fall falls fast feeling feet field film fire fireplace flower flowers
focus fog foggy footage for forest friendly from front full funny garden gentle gently gives glass glasses good grass gray great
green grey ground hair hand hands handsome happily happy hat have he head her here high hill him his hold holding holds home hood hot
hotel hour house human ice if in indoors inside into is it its jacket joy jumps just kitchen lake lamp landscape large laugh laughing
laughs laughter leans leather leaves left lens lifting lifts light lights like lips listens little living long look looking looks love low
make makes man market medium men microphone middle mirror modern moment moon morning mountain mouth move movement moves movie much
music natural near neck neon new night no nose not now nature ocean of off office old on one only open opens orange other
outdoor outdoors outside over painting pale park party passing path pavement peaceful people photo photograph picture piece pink
place plain plant plays portrait professional profile proud purple quality quickly quiet quietly rain raindrops rainy raises realistic
red reflected relaxed restaurant river road rock romantic roof room run running runs sad said sand scarf scene school sea
seated serious shadow shadows shallow she sharp shirt shop short shot shoulder shoulders shows side sidewalk signs silver sing sings sipping
sip sit sits sitting skin skirt sky slightly slow slowly small smile smiles smiling snow so soft softly some something song space speak
speaks speaking spring square stairs standing stands star stars starts steady still stops straight street strong style subtle suddenly suit
summer sun sunlight sunglasses sunny sunrise sunset sweater table takes taking talk talking talks tall tears texture that the their
them then there they thick thinking thoughtful through tie tired to together top touches toward towards town traffic train
tree trees turn turning turns two ultra umbrella under until up urban uses van very video view village vintage violet wait waits wake walk
walking walks wall warm watches water wave waves waving wear wearing wears weather wedding wet where while white who wide wild wind window winks
winter with woman women wood wooden wool work world yellow yes young your
"""

COMMON_CAPITALISED = (
    "The A An In On At She He They It Woman Man Girl Boy Young Old Close Medium Wide Slow Soft Warm Cinematic Portrait"
)

COMMON_CHINESE = (
    "女男士她他它的是不了在有我们你这那中大小来去上下个国到说时为子就会着也里外后前之过家学对可好天地多心年起作所同事方成者面经部"
    "山水火雨雪风云花草树木林城街路窗门海河湖夜晚早晨日月星阳光影色黑白红黄蓝绿灰紫粉金银微笑头发手脸眼睛嘴唇鼻温柔冷暖慢快走跑站坐躺抬停步"
    "向人物像电影质感近远景特写缓跟随露出和照亮侧从飘动迎沿沙滩镜左右转看望笑点喝茶咖啡桌椅书房间屋楼桥车站公园春夏秋冬衣服帽穿戴"
    "唱歌跳舞说话哭开心难美丽帅老少年轻孩儿朋友爱情静安吹拿举挥伸闭睁背景高清晰细节真实自然专业处往看那直摄拍画片视频幅张一二三两几只"
)

SUFFIXES = "ed ing er ly es in up out on back key covered"
"""Pieces within words: for words that are not known, and behind a hyphen."""


def build_tokenizer(template_folder: Path, out: Path, texts: Iterable[str]) -> int:
    """Saves a Unigram tokenizer of words, ASCII characters and Chinese characters in the Hugging Face layout.

    Args:
        template_folder: Of another tokenizer, whose settings and special tokens (pad 0, end 1, unknown 2) are kept.
        out: The new tokenizer's folder; replaced if there.
        texts: All of their words and characters become pieces.

    Returns:
        The number of pieces.
    """
    words, characters = _pieces_of([*texts, DEFAULT_NEGATIVE_PROMPT, REFERENCE_PROMPT])
    words |= set(COMMON_WORDS.split()) | set(COMMON_CAPITALISED.split())
    characters |= set(COMMON_CHINESE)
    ascii_characters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [("▁" + word, -5.0) for word in sorted(words)]
    pieces += [(suffix, -7.0) for suffix in SUFFIXES.split()]
    pieces += [(character, -9.0) for character in ascii_characters]
    pieces += [(character, -8.0) for character in sorted(characters - set(ascii_characters))]
    if len(pieces) > MAX_PIECES:
        raise ValueError(f"tokenizer: {len(pieces)} pieces; at most {MAX_PIECES}")
    shutil.copytree(template_folder, out, dirs_exist_ok=True)
    file = out / "tokenizer.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["model"]["vocab"] = pieces
    file.write_text(json.dumps(settings, ensure_ascii=False, indent=0), encoding="utf-8")
    return len(pieces)


def _pieces_of(texts: Iterable[str]) -> tuple[set[str], set[str]]:
    """The words of ASCII letters and the other characters of texts, as the model's tokenizer cleans and splits them."""
    words: set[str] = set()
    characters: set[str] = set()
    for text in texts:
        for chunk in clean_text(text).split():
            words |= set(re.findall(r"^[A-Za-z]+", chunk))
            characters |= {character for character in chunk if not character.isascii()}
    return words, characters


class PromptTable(NamedTuple):
    """Token ids of the prompts, int16, padded with 0.

    `seen` is (num scenes, per scene, 80), in the order of `ALL_SCENES`; every third prompt is Chinese. `unseen` has the prompts for
    judging. `special` is (3, 128): the published negative prompt, the empty one and the reference picture's.
    """

    seen: NDArray[np.int16]
    unseen: NDArray[np.int16]
    special: NDArray[np.int16]
    num_pieces: int


def write_all(num: int, rng: random.Random, *, unseen: bool = False) -> list[list[str]]:
    """`num` prompts for each of `ALL_SCENES`."""
    write = write_unseen_prompt if unseen else write_prompt
    return [[write(scene, rng, chinese=index % 3 == 2) for index in range(num)] for scene in ALL_SCENES]


def tokenize(base: Path, texts: Sequence[str], num_columns: int) -> NDArray[np.int16]:
    """Token ids (num texts, num_columns) from the tokenizer of the base model in folder `base`, padded with 0.

    Raises:
        ValueError: If a text is longer.
    """
    table = np.zeros((len(texts), num_columns), np.int16)
    for row, (text, ids) in enumerate(zip(texts, Tokenizer.load(base).read(texts), strict=True)):
        if len(ids) > num_columns:
            raise ValueError(f"prompt {text!r}: {len(ids)} tokens; at most {num_columns}")
        table[row, : len(ids)] = ids
    return table


def tokenize_all(base: Path, seen: list[list[str]], unseen: list[list[str]], num_pieces: int) -> PromptTable:
    """The table of all prompts, from lists by scene."""

    def by_scene(prompts: list[list[str]]) -> NDArray[np.int16]:
        flat = [text for texts in prompts for text in texts]
        return tokenize(base, flat, NUM_COLUMNS).reshape(len(prompts), -1, NUM_COLUMNS)

    special = tokenize(base, [DEFAULT_NEGATIVE_PROMPT, "", REFERENCE_PROMPT], NUM_SPECIAL_COLUMNS)
    return PromptTable(seen=by_scene(seen), unseen=by_scene(unseen), special=special, num_pieces=num_pieces)
