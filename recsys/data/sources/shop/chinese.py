"""The shop in Chinese, entry by entry as in English."""

from recsys.data.sources.shop.words import Words, groups

# fmt: off
CHINESE = Words(
    space="",
    nouns=groups("手机,智能机,移动电话|手机壳,手机套,保护壳|充电器,充电头,电源适配器|耳机,头戴耳麦,耳麦"
                 "|笔记本电脑,手提电脑,便携电脑|背包,双肩包,书包|水壶,水杯,随行壶|帐篷,露营帐,遮篷"
                 "|睡袋,睡囊,保暖袋|台灯,灯具,照明灯|跑鞋,运动鞋,球鞋|袜子,短袜,长袜|外套,夹克,大衣"
                 "|围巾,披肩,围脖|咖啡机,咖啡壶,浓缩机|马克杯,杯子,茶杯"),
    brands=groups("诺维|云杉|恒泰|熊野|明德|晨曦|北辰|青禾|远航|瑞和|安然|朗月"),
    materials=groups("皮革,真皮|棉布,帆布|尼龙,锦纶|不锈钢,钢材|铝合金,轻合金|羊毛,美利奴|硅胶,橡胶|玻璃,水晶"
                     "|陶瓷,瓷土|塑料,树脂|竹子,木头|涤纶,摇粒绒"),
    features=groups("防水,防雨,耐水|轻便,轻巧,超轻|可折叠,折叠式,易收纳|无线,免接线|快速,高速,迅捷|保温,隔热"
                    "|加厚,软垫|透气,通风,清爽|小巧,迷你,袖珍|耐用,结实,坚固|静音,安静,无噪音"),
    uses=groups("旅行,出差,远行|办公,上班|上学,校园,学生|徒步,登山,爬山|跑步,慢跑|居家,客厅|露营,野外|冬季,寒冬"
                "|送礼,礼物"),
    series=("日光", "大地", "云海", "微光", "织女", "月影", "星轨", "三角", "峡湾", "明镜", "山脉", "回声"),
    styles=("活泼", "现代", "经典", "传世"),
    regions=("北方", "南方", "东部", "西部", "沿海", "山区", "首都", "海岛"),
    dayparts=("夜间", "上午", "下午", "傍晚"),
    genders=("女", "男", "其他"),
    careful=("这款{feature}的{noun}选用优质{material}，做工精细，适合{use}。{brand}出品。",
             "专为{use}打造，{material}{noun}{feature}又好打理，{brand}用心制作。",
             "{brand}工坊精选{material}制成的{noun}，{feature}，陪伴您{use}。",
             "我们为{use}设计了这款{feature}{noun}，{material}经久如新，{brand}质保。"),
    careless=("{noun}{material}{feature}{use}{brand}",
              "货品{noun}，{feature}，{material}，{use}可以。牌子{brand}",
              "{brand}{noun}。看图。{material}。{feature}。{use}。",
              "{noun}如图，{use}，{material}，{feature}，不退换。{brand}"),
    query=(("use", "{}用"), ("brand", "{}"), ("feature", "{}"), ("material", "{}"), ("noun", "{}")),
    reviews={
        -1: ("别买这款{noun}，不到一周就坏了。", "{noun}令人失望，已经退货。", "{noun}质量差，不值这个价。"),
        0: ("{noun}按时送到了。", "{noun}和图片一样。", "普普通通的{noun}。"),
        1: ("{noun}太好了，还会再买。", "用过最好的{noun}，强烈推荐。", "{noun}非常出色，朋友们也想要。"),
    },
    ads=("仅限本月：{brand}{noun}。", "人人都在谈论的{brand}{noun}，快来看看。", "{brand}，{noun}，就是现在。"),
)
