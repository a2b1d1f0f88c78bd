package upstream

import "time"

// locationFor is how long an address that the registry redirected a blob to is
// used again. Registries sign theirs for ten minutes and more; one that expires
// earlier is refused, and the registry is asked anew.
const locationFor = time.Minute

// locationsKept bounds how many are remembered for each upstream and identity.
const locationsKept = 1024
