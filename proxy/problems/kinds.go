package problems

// Severity is how bad a problem is.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // clients fail, or will soon
	Warning  Severity = "warning"  // something works worse than it should, or will fail
)

// Kind is a kind of problem. Its Name begins the id of each of its problems and
// is their heading in deploy/docs/runbook.md.
type Kind struct {
	Name     string // lower-case words with hyphens
	Severity Severity
	When     string // there is such a problem
	Impact   string // who suffers
	Look     string // where there is more to see, as Markdown
	Do       string // what to do first
}

// The kinds.
var (
	readOnly = Kind{
		"file-system-read-only", Critical, "the file system of the data directory takes no writes",
		"cached content is served; new content is streamed without being stored", "`dmesg`, `mount`, `hubcap_degraded`",
		"check the disk and the mount (dmesg), and mount it for writing again",
	}
	full = Kind{
		"file-system-full", Critical, "other programs have filled the file system of the data directory",
		"cached content is served; new content is streamed without being stored", "`df`, `du -sh` of the data directory against `hubcap_cache_bytes`: the rest is others'",
		"free space, or reduce HUBCAP_CACHE_SIZE",
	}
	noInodes = Kind{
		"file-system-without-inodes", Warning, "the file system of the data directory can create no more files",
		"cached content is served; new content is streamed without being stored", "`df -i`",
		"free inodes (df -i)",
	}
	writesFail = Kind{
		"disk-writes-fail", Critical, "a write to the data directory failed within the last minute",
		"cached content is served; new content may be streamed without being stored", "`dmesg`, `smartctl -a`, quotas; the log has the error of each write",
		"check the disk (dmesg, SMART)",
	}
	readsFail = Kind{
		"disk-reads-fail", Warning, "cached files, or directories of them, cannot be read at the moment",
		"what cannot be read is fetched from its registry again", "`dmesg`, the mount of a network file system; the log names the files",
		"check the disk or the file server; the files are kept",
	}
	indexInMemory = Kind{
		"index-in-memory", Warning, "the index is kept in memory only",
		"pulls work; what is learnt of tags may be lost at the next stop", "the log since the start says why the index could not be opened or written",
		"check free space and the log; the next start makes a new index",
	}
	cannotGrow = Kind{
		"cache-cannot-grow", Warning, "the file system has less room than a tenth below the cache size",
		"images are evicted earlier than the cache size suggests", "`df`; `hubcap_cache_budget_bytes` against the size and free space of the file system",
		"free space, or reduce HUBCAP_CACHE_SIZE or HUBCAP_MIN_FREE",
	}
	scrubLate = Kind{
		"scrub-late", Warning, "the last round of verifications ended longer ago than two HUBCAP_VERIFY_INTERVAL",
		"rot on the disk is found late; what clients get is verified all the same", "`hubcap_scrub_due_objects`, `hubcap_scrubbed_bytes_total`, `iostat`",
		"check whether the disk is slow or overloaded; a longer HUBCAP_VERIFY_INTERVAL asks less of it",
	}
	upstreamFails = Kind{
		"upstream-fails", Warning, "a host of a registry fails and is not asked for a while (its circuit is open)",
		"cached content is served; other content of the registry cannot be pulled", "`hubcap doctor` asks the registry again; `hubcap_upstream_circuits`, the log's lines of that upstream",
		"look at the registry's status page, at name resolution, route and proxy (hubcap doctor)",
	}
	tooManyRequests = Kind{
		"upstream-too-many-requests", Warning, "a host of a registry has answered 429 to other requests than pulls",
		"cached content is served; other content waits, or is answered 429", "`hubcap_upstream_requests_total` with class 429, and who else uses this address",
		"wait; look for others who ask that registry from the same address",
	}
	refusesAll = Kind{
		"registry-refuses-all", Warning, "a registry refuses everything, also what it served before",
		"cached content is served; other content of the registry cannot be pulled", "the log has the registry's error; `hubcap doctor` asks it with and without the credentials",
		"look at the registry's status page and at the box's credentials",
	}
	tagsStale = Kind{
		"tags-stale", Warning, "tags of a registry were served without being confirmed within the last five minutes",
		"clients get the image that a tag last named, which may be old", "the log, warnings of requests answered from stale content",
		"look for the requests with from=stale in the log: they have the reason",
	}
	pullsExhausted = Kind{
		"pulls-exhausted", Critical, "a registry's pull limit is reached",
		"cached content is served; new images are refused until the window ends", "`hubcap_upstream_ratelimit_remaining`; whose new tags the log shows; who else pulls from this address",
		"log the box in to the registry (HUBCAP_UPSTREAM_<n>_USERNAME), or use an account with a higher limit",
	}
	pullsEndSoon = Kind{
		"pulls-end-soon", Warning, "less than 30 % of a registry's pull limit is left, for less than an hour at the pace of the last hour",
		"what is cached goes on; new images are refused then", "`hubcap_upstream_ratelimit_exhausted_seconds`; whose new tags the log shows; who else pulls from this address",
		"log the box in to the registry (HUBCAP_UPSTREAM_<n>_USERNAME), or use an account with a higher limit",
	}
	credentialsFail = Kind{
		"credentials-fail", Warning, "the box's credentials for a registry are refused, or their source gives none",
		"public repositories are pulled without them, under the anonymous limit; of others only cached content is served", "`hubcap doctor`; `hubcap_upstream_credential_failures_total`",
		"renew the credentials",
	}
	tokenHostRefused = Kind{
		"token-host-refused", Warning, "a registry named a token service that is not on its list within the last ten minutes",
		"no image that needs a token comes from that registry: clients get 404, or what is cached", "the log names the token service",
		"set HUBCAP_UPSTREAM_<n>_TOKEN_HOSTS, if the token service is the registry's own; else a stranger answers in its place",
	}
	certificateExpired = Kind{
		"certificate-expired", Critical, "the certificate of a port has expired",
		"clients refuse to connect and go to the registry themselves", "`openssl x509 -noout -enddate -in` the file that the problem names",
		"renew the certificate; the files are read again when they change",
	}
	certificateExpires = Kind{
		"certificate-expires-soon", Warning, "the certificate of a port expires within 14 days",
		"none until then", "`openssl x509 -noout -enddate -in` the file that the problem names",
		"renew the certificate; the files are read again when they change",
	}
	certificateUnusable = Kind{
		"certificate-unusable", Warning, "a new certificate of a port cannot be used",
		"the previous certificate is still shown, until it expires", "the text has the error; whether the key belongs to the certificate, and its mode",
		"write certificate and key again, readable for hubcap's user",
	}
	connectionLimit = Kind{
		"connection-limit", Warning, "a limit of client connections was met within the last minute",
		"further connections wait; those of an address with too many are closed, and its clients go to the registry themselves", "`hubcap_connection_limits_total`, `hubcap_connections`; the log names the address",
		"raise HUBCAP_MAX_CONNECTIONS or HUBCAP_MAX_CONNECTIONS_PER_CLIENT, or name a gateway in HUBCAP_TRUSTED_PROXIES",
	}
	noDescriptors = Kind{
		"file-descriptors-exhausted", Critical, "a connection could not be accepted within the last minute for want of file descriptors",
		"clients wait, and go to the registry themselves", "`hubcap_connections`, `/proc/<pid>/limits`",
		"raise the limit of open files (LimitNOFILE, ulimit -n)",
	}
	oneGateway = Kind{
		"clients-behind-one-address", Warning, "all requests come from one private address",
		"HUBCAP_ALLOW_CLIENTS and the limits of one client hold for all of them together", "what has that address: a load balancer, NAT, or the bridge of a container engine",
		"if it is a proxy, name it in HUBCAP_TRUSTED_PROXIES; if it is a gateway, give hubcap an address that clients reach without it",
	}
	tlsToPlain = Kind{
		"tls-to-plain-port", Warning, "a client spoke nothing but TLS to a port without TLS within the last ten minutes",
		"that client goes to the registry itself, or fails", "that client's configuration: it shows `server gave HTTP response to HTTPS client`",
		`add the box to the client's "insecure-registries", or set HUBCAP_TLS_CERT_FILE`,
	}
	clientsRefused = Kind{
		"clients-refused", Warning, "a client outside the ranges asked within the last ten minutes",
		"that client goes to the registry itself, or fails", "the log names the address; the ranges are in the line `clients that may pull` at the start",
		"add its range to HUBCAP_ALLOW_CLIENTS, if it may pull",
	}
	notConfigured = Kind{
		"registry-not-configured", Warning, "a client asked for a registry that is not configured within the last ten minutes",
		"those clients get 404", "the log names the clients",
		"add the registry as HUBCAP_UPSTREAM_<n>_HOST, if it is one",
	}
	goAround = Kind{
		"clients-go-around", Warning, "a client went to the registry itself within the last hour, after an answer of this box",
		"such pulls cross the internet line, and count against the pull limit of the site's address", "`hubcap_bypass_suspected_total` by `why`; the log names the client, the image and the answer",
		"look for that answer in the log, and mend its cause",
	}
	pinsDoNotFit = Kind{
		"pins-do-not-fit", Warning, "pinned images need more than 80 % of the cache, or a line of HUBCAP_PINS_FILE does not fit beside them",
		"what is pinned stays, with less room for everything else; a line that does not fit is not pinned", "`hubcap_pinned_bytes` against `hubcap_cache_budget_bytes`; the log",
		"unpin something, name fewer platforms, or raise HUBCAP_CACHE_SIZE",
	}
	pinnedMissing = Kind{
		"pinned-images-incomplete", Warning, "parts of a pinned image have been missing for more than ten minutes",
		"the image could not be pulled here if its registry failed", "`hubcap_pinned_missing_bytes`; the log has the reason of each attempt to fetch them",
		"mend what the reason names; it is tried again within an hour",
	}
	pinsFile = Kind{
		"pins-file-unusable", Warning, "HUBCAP_PINS_FILE, or a line of it, cannot be used",
		"what such a line names is not kept; of a file that cannot be read, what it last said holds", "the log names each line, and what is wrong with it",
		"correct the file; it is read again when it changes",
	}
	boxFails = Kind{
		"box-fails", Warning, "another box, of HUBCAP_SITE or HUBCAP_SISTERS, has given no answer for two minutes",
		"pulls go on: what that box would give comes from the next one, or from the registry", "`hubcap status`; the log has the error; `curl` the box's `/livez` from this one",
		"start that box, or correct its entry in the list",
	}
	listWrong = Kind{
		"box-list-wrong", Warning, "an entry of HUBCAP_SITE or HUBCAP_SISTERS is this box, a box that has another entry, or no hubcap of the site; or another box has another list",
		"pulls go on, and some blobs are fetched from their registry more than once", "`hubcap status`; `hubcap config` on each box",
		"set the same HUBCAP_SITE on each box, each box in it once",
	}
	logLost = Kind{
		"log-lines-lost", Warning, "lines of the log were dropped within the last ten minutes",
		"the log is incomplete; no request waits for it", "`hubcap_log_lines_lost_total`; whether journald or the container engine keeps up",
		"check what reads hubcap's standard error",
	}
	offline = Kind{
		"offline", Warning, "HUBCAP_OFFLINE is set, or an operator has taken the box offline",
		"only cached content can be pulled, and no tag moves", "`hubcap offline` says which, and until when",
		"end it by hubcap offline off, or unset HUBCAP_OFFLINE, unless it is meant to be so",
	}
	outageGaps = Kind{
		"outage-gaps", Warning, "for six hours, less than 95 % of the images that clients have pulled of late could be pulled in full if all registries failed",
		"nobody yet; in an outage, clients that need the other images would fail", "`hubcap outage` names the images, what they lack, and why",
		"fetch what is missing (hubcap outage --repair), each night with HUBCAP_OUTAGE_REPAIR=true",
	}
	tierFails = Kind{
		"tier-fails", Warning, "the bucket of the S3 tier fails and is not asked for blobs",
		"nobody; what this box does not hold comes from its registry", "`hubcap_tier_reads_total`; the log; the S3 store's own log",
		"mend what the text says (HUBCAP_S3_URL, HUBCAP_S3_REGION, the keys, the store); the bucket is tried again every ten seconds",
	}
	tierNotWritten = Kind{
		"tier-not-written", Warning, "the bucket of the S3 tier takes no blobs",
		"nobody yet; a new box, or one that has lost its disk, fetches new blobs from their registry", "`hubcap_tier_writes_total`, `hubcap_tier_queue`; the S3 store's own log",
		"make room in the bucket or let the keys write to it; set HUBCAP_S3_WRITE=false if this box is only to read",
	}
	tierWrong = Kind{
		"tier-wrong-content", Warning, "an object of the S3 tier's bucket has given wrong bytes within the last hour",
		"nobody; no client gets such bytes, and the blob comes from its registry", "the log names the object; who else writes to the bucket",
		"find out who changed the object; a box that writes to the bucket overwrites it when it next fetches the blob",
	}
)

// Kinds returns all kinds, the critical ones first.
func Kinds() []Kind {
	return []Kind{
		readOnly, full, writesFail, noDescriptors, pullsExhausted, certificateExpired,
		noInodes, readsFail, indexInMemory, cannotGrow, scrubLate,
		upstreamFails, tooManyRequests, refusesAll, tagsStale, pullsEndSoon, credentialsFail, tokenHostRefused,
		certificateExpires, certificateUnusable, connectionLimit, oneGateway, tlsToPlain, clientsRefused, notConfigured, goAround, pinsDoNotFit, pinnedMissing, pinsFile, outageGaps,
		boxFails, listWrong,
		tierFails, tierNotWritten, tierWrong, logLost, offline,
	}
}
