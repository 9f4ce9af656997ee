// A conversation's turns as a tree: which are shown, and what stands beside each. Knows no elements.

/** The turns from the first one down to `leaf`. */
export function pathTo(turns, leaf) {
  const known = new Map(turns.map((turn) => [turn.id, turn]));
  const path = [];
  for (let turn = known.get(leaf); turn && path.length <= turns.length; turn = known.get(turn.parent)) path.unshift(turn);
  return path;
}

/** The turns that stand where `turn` stands, itself among them. */
export function siblings(turns, turn) {
  return turns.filter((other) => other.parent === turn.parent && other.role === turn.role);
}

/** The newest turn below `turn`. */
export function newestBelow(turns, turn) {
  let leaf = turn;
  for (let next = turn; next; leaf = next ?? leaf) {
    next = turns.filter((other) => other.parent === leaf.id).at(-1);
  }
  return leaf;
}

/** The other half of a pair about which nobody has decided yet. */
export function openPair(turns, turn) {
  if (!turn.pair || turn.choice) return null;
  const other = turns.find((candidate) => candidate.pair === turn.pair && candidate.id !== turn.id);
  if (!other || !turn.answer_id || !other.answer_id) return null;
  return turn.side === "left" ? [turn, other] : [other, turn];
}
