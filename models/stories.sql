-- stories.sql: makes the table story(id, text): small stories for the built-in model to learn from, as many as wanted(n) says.
--
-- A story grows from '<tale>': the first <symbol> in it is replaced, wherever it stands, by one of the symbol's texts, until
-- none is left; then the {words}, each of which is the same throughout a story. {size:b} takes its texts from {size}, but is
-- another choice. Choices come from a small generator of numbers, seeded with the story's id: the same stories everywhere.
-- All texts were written for this project (MIT, like the rest).

CREATE TEMP TABLE rule(symbol, sex, text);      -- sex: of whom the story is about, where it matters
INSERT INTO rule VALUES
('she', 'f', 'she'), ('she', 'm', 'he'), ('She', 'f', 'She'), ('She', 'm', 'He'), ('her', 'f', 'her'), ('her', 'm', 'his'),
('Her', 'f', 'Her'), ('Her', 'm', 'His'),
('him', 'f', 'her'), ('him', 'm', 'him'),
('child', 'f', 'girl'), ('child', 'm', 'boy'), ('parent', 'f', 'mother'), ('parent', 'f', 'grandmother'), ('parent', 'm', 'father'),
('parent', 'm', 'grandfather');

INSERT INTO rule SELECT 'name', 'f', value FROM json_each('["Mia","Lily","Anna","Rosa","Clara","Nora","Ella","Ruth","Ivy","Maya"]');
INSERT INTO rule SELECT 'name', 'm', value FROM json_each('["Ben","Tom","Leo","Max","Sam","Finn","Oscar","Hugo","Jack","Noah"]');
INSERT INTO rule SELECT j.key, NULL, i.value FROM json_each('{
"friend": ["Pip","Zoe","Otto","Kim","Lou","Robin","Alex","Sasha"],
"animal": ["fox","rabbit","bear","mouse","owl","duck","frog","squirrel","goat","cat"],
"size": ["little","small","young","brave","shy","clever","curious","kind"],
"pet": ["puppy","kitten","pony","parrot","turtle","lamb"],
"colour": ["red","blue","green","yellow","white","brown","black"],
"toy": ["ball","kite","boat","drum","hat","cart","bell","cup","scarf","box"],
"cloth": ["hat","scarf","cap","ribbon"],
"fruit": ["apples","pears","plums","cherries","berries","nuts"],
"meal": ["soup","bread and cheese","pancakes","a warm pie","rice with beans","porridge"],
"place": ["the forest","the garden","the meadow","the park","the valley","the woods","the orchard","the hills"],
"home": ["in a small house by the river","at the edge of the forest","on a farm","in a tall house in the town","near the sea","in a village between two hills"],
"weather": ["The sun was shining","It was a windy day","It was a cold morning","The sky was blue","It had rained all night","Snow lay on the ground"],
"once": ["Once upon a time there was","There once was","Long ago there lived","One spring there was"],
"day": ["One day","One morning","One evening","One Sunday","After breakfast","Late in the afternoon"],
"glad": ["happy","glad","proud","very happy","full of joy"],
"sad": ["sad","sorry","lonely","tired","worried"],
"afraid": ["afraid","scared","frightened"],
"indoors": ["under the bed","behind the door","on top of the shelf","in the cupboard","beside the stove"],
"field": ["in the tall grass","between two stones","beside the well","behind the hedge"],
"spot": ["behind the house","near the old oak","under a bush","in the hay","next to the gate"],
"noise": ["a soft cry","a loud bang","a strange song","a tiny voice","a scratching sound"],
"wish": ["to fly","to swim","to sing","to ride a horse","to paint","to dance"],
"end": ["From that day on they were the best of friends.","And {she} never forgot that day.","That night {name} slept very well.","Everyone was {glad}.","It was the best day of the year.","They laughed all the way home.","And that is how it ended."]
}') j, json_each(j.value) i;

INSERT INTO rule(symbol, text) VALUES
('who', 'a {size} {child} named {name}'), ('who', 'a {size} {animal} named {name}'), ('who', 'a {child} called {name}'),
('open', '<once> <who>. {She} lived {home}.'), ('open', '<once> <who>.'), ('open', '{name} was a {size} {child} who lived {home}.'),
('open', '{name} was a {size} {animal}. {She} lived {home} with {her} {parent}.'),
('out', '<day> {she} went to {place}. <weather>.'), ('out', '<weather>. {name} wanted to play in {place}.'),
('out', '<day> {name} walked to {place} with {her} {parent}.'), ('out', '<day> {she} was walking through {place}.'),
('says', 'said {name}'), ('says', '{name} said'), ('says', '{she} said'),
('ask', '"Can you help me?" asked {friend}.'), ('ask', '"Will you help me, please?" said {friend}.'), ('ask', '{friend} asked {name} for help.'),
('yes', '"Of course," <says>.'), ('yes', '"Yes, I will," <says>.'), ('yes', '{name} nodded and smiled.'),
('thanks', '"Thank you, {name}," said {friend}.'), ('thanks', '{friend} thanked {him} with all {her} heart.'), ('thanks', '"You are a good friend," said {friend}.'),
('find', 'There {she} found a {colour} {toy} {field}.'), ('find', 'Suddenly {she} saw a {colour} {toy} {field}.'),
('meet', 'There {she} met {friend}.'), ('meet', 'On the way {she} met {friend}, who looked {sad}.'), ('meet', '{friend} was sitting under a tree.'),

('tale', '<open> <out> <find> "Whose {toy} is this?" <says>. {She} asked everybody, and at last {friend} came running. "That is my {toy}!" {friend} cried. {name} gave it back, and {friend} was {glad}. <end>'),
('tale', '<open> {She} had a {colour} {toy} and took it everywhere. <out> When {she} came home, the {toy} was gone. {name} was {sad}. {She} looked {indoors}, but it was not there. Then {her} {parent} found it {spot}. {name} was {glad}. <end>'),
('tale', '<open> <out> <meet> "Why are you so {sad}?" <says>. "I have lost my {pet}," said {friend}. They looked {field} and {spot}. At last they heard {noise}. It was the {pet}! <thanks> <end>'),
('tale', '<open> {She} wanted {wish}, but {she} was {afraid}. <day> {friend} came to see {him}. "I will show you how," said {friend}. They tried again and again. In the end {name} was not {afraid} any more. <end>'),
('tale', '<open> <day> {name} and {her} {parent} made {meal}. It smelled so good that {friend} came to the door. "May I eat with you?" asked {friend}. <yes> They sat down together and ate until nothing was left. <end>'),
('tale', '<open> <out> {She} picked many {fruit} and put them into a basket. <meet> {friend} had nothing to eat. {name} gave {friend} half of the {fruit}. <thanks> <end>'),
('tale', '<open> One night {she} heard {noise}. {name} was {afraid} and called {her} {parent}. They took a lamp and looked {indoors}. There sat a {size:b} {pet}. "It only wants to come in," said {her} {parent}. They gave the {pet} some milk. <end>'),
('tale', '<open> {She} lived with a {pet}. Every day the {pet} sat {indoors} and waited for {him}. <day> {name} came home late, and the {pet} was {sad}. "I am sorry," <says>. Then they played with the {colour} {toy} until it was dark. <end>'),
('tale', '<open> <day> {friend} took the {colour} {toy} that belonged to {name}. {name} was angry. "Give it back!" <says>. "I only wanted to play with you," said {friend}. Then {name} was not angry any more, and they played together in {place}. <end>'),
('tale', '<open> <out> {She} wore a {colour} {cloth}. The wind was strong and blew it into a tree. {name} could not reach it. But {friend} was tall and could climb. {friend} brought the {cloth} down. "Thank you, {friend}," <says>. <end>'),
('tale', '<open> {She} planted a seed in the garden. Every morning {she} gave it water. For a long time nothing happened, and {name} was {sad}. "You must wait," said {her} {parent}. <day> there was a {colour} flower. {name} was {glad}. <end>'),
('tale', '<open> It was the birthday of {friend}, and {name} had no present. {She} thought for a long time. Then {she} made a {colour} {toy} with {her} own hands. "This is the best present of all," said {friend}. {name} was {glad}. <end>'),
('tale', '<open> <out> It began to rain, and {she} ran into a cave. In the cave sat a {size:b} {animal:b}. "Do not be {afraid}," said the {animal:b}. "You can stay here until the rain stops." They told each other stories. <end>'),
('tale', '<open> <ask> "My house is so dirty," said {friend}. <yes> They washed the windows, swept the floor and cooked {meal}. <thanks> <end>'),
('tale', '<open> {She} did not want to go to bed. "I am not tired," <says>. {Her} {parent} told {him} a story about a {size:b} {animal:b} in {place}. Before the story was over, {name} was asleep.'),
('tale', '<open> <out> {name} lost {her} way, and it grew dark. {She} was {afraid}. Then a {size:b} {animal:b} came and said, "Follow me." The {animal:b} led {him} home, where {her} {parent} was waiting. <end>');

INSERT INTO rule SELECT symbol || ':b', sex, text FROM rule;

-- All texts that a symbol may become, numbered, for either sex; n says how many.
CREATE TEMP TABLE choice(symbol, sex, nr, text, n, PRIMARY KEY(symbol, sex, nr)) WITHOUT ROWID;
INSERT INTO choice
SELECT symbol, s.value, row_number() OVER (PARTITION BY symbol, s.value ORDER BY rule.rowid) - 1, text, count(*) OVER (PARTITION BY symbol, s.value)
FROM rule JOIN json_each('["f","m"]') s ON rule.sex IS NULL OR rule.sex = s.value;

CREATE TABLE story(id INTEGER PRIMARY KEY, text);
WITH RECURSIVE
number(n) AS (SELECT 1 UNION ALL SELECT number.n + 1 FROM number, wanted WHERE number.n < wanted.n),
growing(id, sex, seed, text) AS (
    SELECT n, iif(n % 2, 'f', 'm'), n * 2654435761 % 2147483648, '<tale>' FROM number
    UNION ALL       -- sentences first
    SELECT g.id, g.sex, (g.seed * 1103515245 + 12345) % 2147483648, replace(g.text, '<' || c.symbol || '>', c.text)
    FROM growing g
    JOIN choice one ON one.symbol = substr(g.text, instr(g.text, '<') + 1, instr(g.text, '>') - instr(g.text, '<') - 1) AND one.sex = g.sex AND one.nr = 0
    JOIN choice c ON c.symbol = one.symbol AND c.sex = g.sex AND c.nr = (g.seed / 1024) % one.n
    WHERE instr(g.text, '<')
    UNION ALL       -- then words
    SELECT id, sex, seed, replace(replace(text, '{', '<'), '}', '>') FROM growing WHERE NOT instr(text, '<') AND instr(text, '{')
)
INSERT INTO story SELECT id, text FROM growing WHERE NOT instr(text, '<') AND NOT instr(text, '{');
