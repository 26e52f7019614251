/*
 * A comparison in front of the probe, and the jump that goes by it after the probe: to ask a selector by another
 * comparison in between loses it. The probe is not entered from elsewhere.
 */
#include "plant.h"
EXPECT(7, 5)
FUNCTION(plant)
  mov $5, %eax
  cmp $1, %edi
  STAP_PROBE(plant, flags_over_the_probe)
  jae 1f
  mov $7, %eax
1: ret
END(plant)
