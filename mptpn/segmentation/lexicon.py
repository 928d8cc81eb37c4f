"""The English that prompts are read in: words for structures, places, sizes and numbers, and words that ask nothing."""

# phrases that become one word before single words are looked up
PHRASES = {
    r"red (blood )?cells?|erythrocytes?": "redcell",
    r"white (blood )?(cells?|corpuscles?)|(whole|entire|full) cells?|wbcs?|leu[ck]ocytes?|immune cells?": "whitecell",
    r"blood vessels?|vascular (tree|network|system|structures?)": "vessel",
    r"(cell|cellular|plasma) (membranes?|borders?|boundar(y|ies)|outlines?|walls?|edges?)": "membrane",
    r"(borders?|boundar(y|ies)|outlines?|walls?|edges?|membranes?) (of|between|around|separating) (the |all |each |every |neighbou?ring )*cells?": "membrane",  # noqa: E501
    r"(insides?|interiors?|inner part|content|contents) of (the |all |each |every |a )*cells?": "interior",
    r"(area|space|region|areas|regions|pixels|what is|what lies|everything) (inside|within) (of )?(the |all |each |every |a )*cells?": "interior",  # noqa: E501
    r"(inside|within) (of )?(the |all |each |every |a )*cells?(?! nucle)": "interior",
    r"cell (interiors?|insides?|contents?|lumens?)": "interior",
    r"cell (kernels?|cores?)": "nucleus",
    r"(other|rather|instead|apart|aside|away|far|different|save|free|devoid) (than|from|of|for)": "except",
    r"(left|leave|leaves|leaving|filter|filters|filtered|filtering) out": "except",
}
NUCLEUS = "nucleus nuclei nuclear nucleuses karyon karyons chromatin dapi hoechst haematoxylin hematoxylin"
VESSEL = "vessel vessels vasculature vascular arterioles venules capillaries capillary microvasculature"
MEMBRANE = "membrane membranes plasmalemma membranous"
INTERIOR = "interior interiors intracellular inside insides"
LESION = "lesion lesions tumor tumors tumour tumours mass masses nodule nodules cancer carcinoma neoplasm neoplasms"
LESION += " abnormality abnormalities growth"
CONCEPTS = {
    "nucleus": NUCLEUS,
    "vessel": VESSEL,
    "membrane": MEMBRANE,
    "interior": INTERIOR,
    "lesion": LESION,
    "cytoplasm": "cytoplasm cytoplasms cytoplasmic cytosol",
    "white": "whitecell",
    "cell": "cell cells cellular",
}
MORE_WHITE = frozenset("wbcs leukocytes leucocytes corpuscles".split())  # plurals that PHRASES make one word
WORD_CONCEPT = {word: concept for concept, words in CONCEPTS.items() for word in words.split()}
# kinds that the weights cannot tell from their like: a word, and what can be asked instead
FINER = {"arteries": "vessels", "artery": "vessels", "arterial": "vessels", "veins": "vessels", "vein": "vessels"}
FINER |= {kind + s: "white blood cell" for kind in ("neutrophil", "lymphocyte", "monocyte") for s in ("", "s")}
FINER |= {kind + s: "white blood cell" for kind in ("eosinophil", "basophil", "granulocyte") for s in ("", "s")}
BUILT_IN = {  # concepts that a prompt names, to the target it means
    frozenset({"nucleus"}): "nuclei",
    frozenset({"vessel"}): "vessels",
    frozenset({"membrane"}): "membranes",
    frozenset({"interior"}): "cell interior",
    frozenset({"lesion"}): "breast lesion",
    frozenset({"cytoplasm"}): "white blood cell cytoplasm",
    frozenset({"white", "nucleus"}): "white blood cell nucleus",
    frozenset({"white", "cytoplasm"}): "white blood cell cytoplasm",
    frozenset({"white"}): "white blood cell",
}
PLACES = {
    "left": "left leftmost lefthand",
    "right": "right rightmost righthand",
    "upper": "upper top above topmost uppermost",
    "lower": "lower bottom below bottommost lowermost",
    "center": "center centre middle central centrally",
}
WORD_PLACE = {word: place for place, words in PLACES.items() for word in words.split()}
PARTS = {"third": 1 / 3, "quarter": 1 / 4, "half": 1 / 2}
SIZES = {
    "large": "large big huge enlarged sizeable larger bigger",
    "small": "small tiny little minute smaller",
    "largest": "largest biggest greatest",
    "smallest": "smallest tiniest littlest",
}
WORD_SIZE = {word: size for size, words in SIZES.items() for word in words.split()}
NUMBERS = {"one": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
NUMBERS |= {"nine": 9, "ten": 10, "both": 2}
ORDINALS = frozenset("first second third fourth fifth sixth seventh eighth ninth tenth next last penultimate".split())
NEGATIONS = frozenset(
    "no not without except excluding exclude excludes excluded never neither nor non none nothing absence absent "
    "lacking lacks but avoid avoiding ignore ignoring ignored disregard disregarding omit omitting omitted skip "
    "skipping remove removing removed discard discarding delete deleting erase hide reject suppress subtract minus "
    "hardly barely scarcely rarely besides unless unlike outside beyond opposite dont cannot isnt arent".split()
)
AROUND = frozenset("around surrounding encircling beside".split())
DESCRIPTIONS = frozenset("density dense distributed distribution sparsely evenly irregularly scattered".split())
OTHER_STRUCTURES = frozenset(
    "liver kidney kidneys heart lung lungs brain bone bones spleen pancreas stomach bladder prostate colon polyp "
    "polyps tooth teeth skin hair rib ribs spine muscle nerve nerves axon axons neuron neurons synapse synapses "
    "mitochondria mitochondrion organelle organelles bacteria bacterium virus parasite gland glands fat ventricle "
    "ventricles hippocampus aorta trachea optic disc macula fovea drusen exudates hemorrhage hemorrhages haemorrhage "
    "redcell platelet platelets fibres fibers collagen cartilage tendon embryo fetus foetus pneumonia stroma".split()
)
GRADES = frozenset("benign malignant normal cancerous noncancerous birads".split())  # of lesions
BODY = frozenset("breast breasts eye eyes".split())  # whose left and right are not those of the picture
PERSON = frozenset("patient patients her his woman anatomical anatomic anatomically".split())
NO_EFFECT = GRADES | frozenset(  # they change what is asked for, and nothing here reads them: they are told
    "dark darker bright brighter blue purple violet pink red gray grey black white round oval circle circular square "
    "triangle triangular rectangle rectangular star diamond regular irregular elongated abnormal high higher tumorous "
    "glowing medium several multiple many few number near boundary boundaries border borders edge edges".split()
)
CORNERS = frozenset("quadrant quadrants corner corners side sides".split())  # no effect where no place is named
ASKING = frozenset(
    "find show segment segmented segmentation outline mark marked highlight locate delineate detect detection extract "
    "give get select identify draw trace label annotate please me us i you we want need would like look see can could "
    "where which what that who is are be there here it its their them these those this all each every any some "
    "everything anything whole entire complete full the a an of in on at to from for by with within inside and or as "
    "into out up my your our whose has have only just exactly visible seen shown present appear appearing".split()
)
FILLERS = ASKING | frozenset(
    # the picture
    "image images picture pictures photo photograph photographs scan scans slide slides section sections sample "
    "samples specimen tissue tissues field view frame micrograph micrographs microscopy microscope fundus retina "
    "retinal breast ultrasound sonogram sonography histology histological pathology smear stain stained staining "
    "fluorescence fluorescent electron biopsy part parts region regions area areas pixel pixels mask masks contour "
    "contours shape shaped structure structures body bodies object objects instance instances material content "
    "location position placed located lying lie lies sitting around surrounding encircling beside hand individual "
    "separate single type types kind blood cell cells cellular eye tree network system belonging belong form forming "
    "formed make making made cover covered covering".split()
)
# what may stand between a number and its target: three of the dark nuclei
BETWEEN = NO_EFFECT | frozenset(
    "of a the these those all its shaped breast retinal stained fluorescent visible".split()
)
UNCOUNTED = frozenset("top bottom above below at to up by every each any or as".split())  # before what is no number
