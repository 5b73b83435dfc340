"""The shop in English."""

from recsys.data.sources.shop.words import Words, groups

# fmt: off
ENGLISH = Words(
    space=" ",
    nouns=groups("phone,smartphone,mobile|phone case,phone cover,phone sleeve|charger,power adapter,power supply"
                 "|headphones,headset,earphones|laptop,notebook,computer|backpack,rucksack,daypack"
                 "|water bottle,drinking flask,canteen|tent,shelter,dome|sleeping bag,sleep sack,bedroll"
                 "|lamp,lantern,light|running shoes,sneakers,trainers|socks,stockings,anklets|jacket,coat,parka"
                 "|scarf,shawl,neck wrap|coffee machine,coffee maker,espresso brewer|mug,cup,beaker"),
    brands=groups("Norvik|Alderon|Tesoro|Kumano|Brightley|Ostara|Veldt|Marrow|Quillon|Sundby|Farrow|Ixora"),
    materials=groups("leather,hide|cotton,canvas|nylon,polyamide|steel,stainless metal|aluminium,alloy|wool,merino"
                     "|silicone,rubber|glass,crystal|ceramic,stoneware|plastic,polycarbonate|bamboo,wood"
                     "|polyester,fleece"),
    features=groups("waterproof,rainproof,water-resistant|light,lightweight,featherweight|foldable,collapsible,folding"
                    "|wireless,cordless|fast,quick,rapid|insulated,thermal|padded,cushioned"
                    "|breathable,airy,ventilated|compact,small,pocket-sized|durable,sturdy,rugged"
                    "|quiet,silent,noiseless"),
    uses=groups("travel,trips,journeys|office,work|school,campus,students|hiking,trekking,mountain trails"
                "|running,jogging|home,living room|camping,outdoors|winter,cold days|gifts,presents"),
    series=("Sola", "Terra", "Nimbus", "Pico", "Vega", "Luma", "Orbit", "Delta", "Fjord", "Mira", "Atlas", "Echo"),
    styles=("playful", "modern", "classic", "timeless"),
    regions=("north", "south", "east", "west", "coast", "mountains", "capital", "islands"),
    dayparts=("night", "morning", "afternoon", "evening"),
    genders=("female", "male", "other"),
    careful=("A {feature} {noun} of {material}, tested by hand and chosen for {use}. By {brand}.",
             "Carefully made for {use}: this {noun} of fine {material} is {feature} and easy to care for. By {brand}.",
             "From the workshop of {brand}, a {noun} of selected {material}, {feature} every day and ready for {use}.",
             "We made this {feature} {noun} for {use}, of {material} that lasts, with a warranty by {brand}."),
    careless=("{noun} {material} {feature} {use} {brand}",
              "item is {noun}, {feature}, {material}, ok for {use}. brand {brand}",
              "{brand} {noun}. see picture. {material}. {feature}. {use}.",
              "{noun} as shown, {use}, {material}, {feature}, no returns. {brand}"),
    query=(("feature", "{}"), ("brand", "{}"), ("material", "{}"), ("noun", "{}"), ("use", "for {}")),
    reviews={
        -1: ("Do not buy this {noun}, it broke within a week.", "Disappointing {noun}, I sent it back.",
             "Poor {noun}, not worth the money."),
        0: ("The {noun} arrived on time.", "This {noun} is what the picture shows.", "A {noun} like any other."),
        1: ("Wonderful {noun}, I would buy it again.", "The best {noun} I have had, highly recommended.",
            "Excellent {noun}, my friends want one too."),
    },
    ads=("This month only: the {noun} by {brand}.", "Discover the {brand} {noun} that everyone talks about.",
         "{brand}. The {noun}. Now."),
)
