"""A Chinese shop that sells what hangs on a phone: power banks, Bluetooth headphones, e-readers, watches.

The same shop as in Chinese, place by place, with other goods on six of its sixteen shelves: each stands where its
price, materials and outline are likely (a Kindle is flat, of aluminium or plastic, and light).
"""

from dataclasses import replace

from recsys.data.sources.shop.chinese import CHINESE
from recsys.data.sources.shop.words import groups

# fmt: off
DIGITAL = replace(
    CHINESE,
    nouns=groups("手机,智能机,移动电话|手机壳,手机套,保护壳|充电宝,移动电源,备用电源|蓝牙耳机,无线耳机,入耳耳机"
                 "|Kindle,电子书,电纸书|背包,双肩包,书包|水壶,水杯,随行壶|帐篷,露营帐,遮篷"
                 "|睡袋,睡囊,保暖袋|蓝牙音箱,无线音箱,便携音响|跑鞋,运动鞋,球鞋|袜子,短袜,长袜|外套,夹克,大衣"
                 "|围巾,披肩,围脖|智能手表,电子表,腕表|手环,智能手环,运动手环"),
)
