"""The preset dictionary of termination messages (zlib's `zdict`): text that recurs in them, the likeliest last.

It is part of the format: a message is read with the very dictionary it was written with, so it never changes. A better one is a new version in
`burnish.api.messages`.
"""

WORDS_1 = (
    b"PublishedBaselineServedLimitsHeldNoLimitsSourcePinnedScoreBelowLimitOutputsDifferNonFiniteOutputsSlowerThanBaselineSpeedupBelowLim"
    b"itLatencyAboveLimitUndecidedCandidateNotLoadableCandidateNotBuildableCandidateFailedCandidateSkippedNoCandidateSamplesOverlapLimit"
    b"BelowResolutionResolvingOptimizingRollingOutServingNotServingPublishOnlyCurrentKeptSuspendedSettledInvalidManifestSourceNotFoundSo"
    b"urceForbiddenSourceTooLargeUnsafeSourceDigestMismatchInvalidModelUnsupportedFormatUnsupportedOperatorUnsupportedOpsetNonFiniteWeig"
    b"htsUnsafeExternalDataInputsMismatchInputsNotGeneratableInvalidDatasetLabelsMissingCalibrationMissingPassNotApplicableResourcesNotE"
    b"nforceableNameConflictSecretNotFoundSourceUnavailableSourceTimeoutSourceIncompleteExportNotEquivalentBaselineNotLoadableBaselineFa"
    b"iledServerNotReadyServerLostOutOfMemoryDeadlineExceededStepKilledStoreNotReadableStoreNotWritableStoreFullStoreCorruptedNotInStore"
    b"DiskFullToolchainUnavailableLibpythonMissingNoMatchingNodeQueueTimeoutImageNotPullablePodNotAdmittedPodNotStartedJobFailedJobLostS"
    b'toreNotSharedHardwareMismatchRolloutTimedOutWrongAnswerSupersededInterruptedInternalError"contractVersion":1"verdict":"Accepted""v'
    b'erdict":"Refused""message":"sha256:x86-64/GenuineIntel/AVX2,AVX512-VNNI"artifact":""baseline":""cache":""candidate":""candidates":'
    b'""compute":""contractVersion":""cosine":""digest":""drop":""equivalence":""export":""failure":""field":""format":""hardwareClass":'
    b'""high":""jobRef":""low":""maxAbsoluteError":""measuredOn":""measurement":""measurements":""message":""name":""node":""optimized":'
    b'""p50":""p95":""p99":""p99High":""plan":""published":""readyReplicas":""reason":""replicas":""resolved":""retriable":""revision":"'
    b'"rounds":""samples":""score":""served":""sharedMemory":""size":""source":""sourceFormat":""speedup":""state":""status":""step":""s'
    b'toredSize":""targets":""throughputPerSecond":""triton":""uri":""url":""value":""verdict":""warnings":""worstCosine":"'
)
